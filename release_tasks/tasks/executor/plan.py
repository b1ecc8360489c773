"""The plan of one command line: every stage runs once, with the values given to the stages that share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from invoke import Call, Task

from release_tasks.core.errors import UsageError
from release_tasks.tasks.executor.task import StageTask

__all__ = ["Plan", "StageCall"]


class StageCall(Call):
    """A call that separates the ``given`` arguments from defaults."""

    def __init__(
        self,
        task: StageTask,
        called_as: str | None = None,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        given: dict[str, Any] | None = None,
        is_direct: bool = False,
    ) -> None:
        super().__init__(task, called_as=called_as, kwargs=task.by_name(args or (), kwargs or {}))
        self.given = dict(self.kwargs) if given is None else given
        self.is_direct = is_direct


@dataclass(eq=False)
class _Node:
    """A unit that runs once: a stage with all its calls merged, or one call of another task."""

    call: Call
    after: list[_Node] = field(default_factory=list)
    given: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def stage(self) -> StageTask:
        """The stage, for the node of a stage."""
        assert isinstance(self.call.task, StageTask)
        return self.call.task


class Plan:
    """The calls of one command line, with all calls of a stage merged into one node."""

    def __init__(self, calls: Iterable[Call], label: Callable[[StageTask], str]) -> None:
        self.label = label
        self.nodes: list[_Node] = []
        self.stages: dict[StageTask, _Node] = {}
        self.links: list[tuple[_Node, _Node]] = []
        for call in calls:
            self.add(call, None)

    def add(self, call: Call | Task[Any], parent: _Node | None) -> _Node:
        """Add a call with its pre- and post-calls; ``parent`` is the nearest stage that lists it."""
        if isinstance(call, Task):
            call = Call(call)
        if isinstance(call.task, StageTask):
            is_new = call.task not in self.stages
            node = self.merged(call, call.task)
            if parent is not None:
                self.links.append((parent, node))
            if not is_new:
                return node
            parent = node
        else:
            node = _Node(call)
        # Invoke annotates both lists as strings; they contain tasks and calls.
        pre, post = cast("tuple[list[Any], list[Any]]", (call.task.pre, call.task.post))
        before = [self.add(task, parent) for task in pre]
        self.nodes.append(node)
        node.after.extend(before)
        for task in post:
            self.add(task, parent).after.append(node)
        return node

    def merged(self, call: Call, stage: StageTask) -> _Node:
        """Return the node of the call's stage, with the values of this call added."""
        if not isinstance(call, StageCall):
            call = StageCall(stage, call.called_as, call.args, call.kwargs)
        node = self.stages.setdefault(stage, _Node(call))
        # Only a direct call has the name by which Invoke finds the configuration of the collection.
        if call.is_direct and not node.call.is_direct:
            node.call = call
        node.given.extend(call.given.items())
        return node

    @property
    def has_json(self) -> bool:
        """Whether any stage of the command line has --json."""
        return any(("json", True) in node.given for node in self.stages.values())

    def resolve(self) -> None:
        """Set the given values on every stage, including values given to stages that share them.

        Raises:
            UsageError: two given values differ, a value looks like a flag or is empty, or two stages would write a
                JSON document.
        """
        resolved: dict[tuple[_Node, str], tuple[_Node, Any]] = {}
        for node in self.stages.values():
            for name, value in node.given:
                for member in self.sharing(node, name):
                    first, known = resolved.setdefault((member, name), (node, value))
                    if known != value:
                        values = " and ".join(
                            f"{self.label(each.stage)} {each.stage.flag_name(name)} {given!r}"
                            for each, given in ((first, known), (node, value))
                        )
                        raise UsageError(f"{values} contradict each other; give one value")
        for (member, name), (_, value) in resolved.items():
            member.call.kwargs[name] = value
        self.check()

    def check(self) -> None:
        """Raise UsageError for values that a stage must not run with."""
        writers = []
        for node in self.stages.values():
            name, values = self.label(node.stage), node.call.kwargs
            problem = node.stage.bad_value(values, name)
            if problem:
                raise UsageError(problem)
            is_deferred = "deferred" in node.stage.internal and values.get("deferred")
            if values.get("json") and not is_deferred:
                writers.append(name)
        if len(writers) > 1:
            raise UsageError(
                f"--json: stdout takes one document, but {' and '.join(writers)} would each write one; "
                "run them in separate command lines"
            )

    def sharing(self, node: _Node, name: str) -> list[_Node]:
        """Return the stages that share the value of this parameter with ``node``, including ``node``."""
        reached = [node]
        for member in reached:
            if name not in member.stage.shares:
                continue
            for link in self.links:
                if member in link:
                    other = link[1] if link[0] is member else link[0]
                    if name in other.stage.shares and other not in reached:
                        reached.append(other)
        return reached

    def in_order(self) -> list[Call]:
        """Return the calls in order, each after its pre-tasks and before its post-tasks."""
        done: list[_Node] = []
        pending = list(self.nodes)
        while pending:
            # A task that must run both before and after another one runs first, as in Invoke.
            ready = (node for node in pending if all(other in done for other in node.after))
            node = next(ready, pending[0])
            pending.remove(node)
            done.append(node)
        return [node.call for node in done]
