"""What one command line runs: every stage once, with the values typed on the stages around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from invoke import Call, Task

from release_tasks.core.errors import UsageError
from release_tasks.tasks.executor.task import StageTask

__all__ = ["Plan", "StageCall"]


class StageCall(Call):
    """A call whose ``typed`` arguments are told apart from those that are only defaults."""

    def __init__(
        self,
        task: StageTask,
        called_as: str | None = None,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        typed: dict[str, Any] | None = None,
        is_direct: bool = False,
    ) -> None:
        super().__init__(task, called_as=called_as, kwargs=task.by_name(args or (), kwargs or {}))
        self.typed = dict(self.kwargs) if typed is None else typed
        self.is_direct = is_direct


@dataclass(eq=False)
class _Node:
    """What runs once: a stage with all its calls merged, or one call of a plain task."""

    call: Call
    after: list[_Node] = field(default_factory=list)
    typed: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def stage(self) -> StageTask:
        """The stage of a node that is one."""
        assert isinstance(self.call.task, StageTask)
        return self.call.task


class Plan:
    """The calls of one command line, with every stage merged into one node."""

    def __init__(self, calls: Iterable[Call], label: Callable[[StageTask], str]) -> None:
        self.label = label
        self.nodes: list[_Node] = []
        self.stages: dict[StageTask, _Node] = {}
        self.links: list[tuple[_Node, _Node]] = []
        for call in calls:
            self.add(call, None)

    def add(self, call: Call | Task[Any], above: _Node | None) -> _Node:
        """Enter a call and its pre- and post-calls; ``above`` is the nearest stage around it."""
        if isinstance(call, Task):
            call = Call(call)
        if isinstance(call.task, StageTask):
            is_new = call.task not in self.stages
            node = self.merged(call, call.task)
            if above is not None:
                self.links.append((above, node))
            if not is_new:
                return node
            above = node
        else:
            node = _Node(call)
        # Invoke annotates both lists as strings; they hold tasks and calls.
        pre, post = cast("tuple[list[Any], list[Any]]", (call.task.pre, call.task.post))
        before = [self.add(task, above) for task in pre]
        self.nodes.append(node)
        node.after.extend(before)
        for task in post:
            self.add(task, above).after.append(node)
        return node

    def merged(self, call: Call, stage: StageTask) -> _Node:
        """The node of the call's stage, which now knows this call's values too."""
        if not isinstance(call, StageCall):
            call = StageCall(stage, call.called_as, call.args, call.kwargs)
        node = self.stages.setdefault(stage, _Node(call))
        # A direct call knows the name that the collection's configuration is found by.
        if call.is_direct and not node.call.is_direct:
            node.call = call
        node.typed.extend(call.typed.items())
        return node

    @property
    def wants_json(self) -> bool:
        """Whether any stage on the command line was asked for a document."""
        return any(("json", True) in node.typed for node in self.stages.values())

    def settle(self) -> None:
        """Give every stage the values that were typed for it, here or along the edges.

        Raises:
            UsageError: two typed values differ, one looks like a flag, or two stages would
                write a JSON document.
        """
        settled: dict[tuple[_Node, str], tuple[_Node, Any]] = {}
        for node in self.stages.values():
            for name, value in node.typed:
                for member in self.sharing(node, name):
                    first, known = settled.setdefault((member, name), (node, value))
                    if known != value:
                        said = " and ".join(
                            f"{self.label(each.stage)} {each.stage.spelled(name)} {typed!r}"
                            for each, typed in ((first, known), (node, value))
                        )
                        raise UsageError(f"{said} contradict each other; give one value")
        for (member, name), (_, value) in settled.items():
            member.call.kwargs[name] = value
        self.check()

    def check(self) -> None:
        """Refuse, with a UsageError, values that no stage may run with."""
        writers = []
        for node in self.stages.values():
            name, values = self.label(node.stage), node.call.kwargs
            problem = node.stage.flaglike_value(values, name)
            if problem:
                raise UsageError(problem)
            is_deferred = "deferred" in node.stage.internal and values.get("deferred")
            if values.get("json") and not is_deferred:
                writers.append(name)
        if len(writers) > 1:
            raise UsageError(
                f"--json: standard output takes one document, and {' and '.join(writers)} would "
                "each write one; run them in command lines of their own"
            )

    def sharing(self, node: _Node, name: str) -> list[_Node]:
        """The stages that have one value of this parameter with ``node``, itself included."""
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
        """The calls as typed, pre-tasks before and post-tasks after what they belong to."""
        done: list[_Node] = []
        pending = list(self.nodes)
        while pending:
            # A task that is to run both before and after another runs first, as in Invoke.
            ready = (node for node in pending if all(other in done for other in node.after))
            node = next(ready, pending[0])
            pending.remove(node)
            done.append(node)
        return [node.call for node in done]
