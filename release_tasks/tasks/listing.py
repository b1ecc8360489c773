"""Collections that leave tasks out of ``inv --list`` where the project has nothing configured for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from invoke import Collection, Program
from invoke.util import Lexicon

from release_tasks.tasks.executor.running import caller_of

__all__ = ["Configured", "FilteredCollection"]


@dataclass(frozen=True)
class Configured:
    """The top-level sections of a project's configuration, and the names in ``release.gates``."""

    sections: set[str]
    gates: set[str]


class FilteredCollection(Collection):
    """A collection whose listing contains only the tasks for which ``is_listed`` is true; every task still runs.

    ``is_listed`` takes the name of a task and what is configured.
    """

    def __init__(self, name: str, is_listed: Callable[[str, Configured], bool]) -> None:
        self._is_listed = is_listed
        super().__init__(name)

    # Invoke builds the namespace before it reads the configuration, and reads the attribute `tasks` of a collection
    # both for the parser and for the listing.
    @property
    def tasks(self) -> Lexicon:
        """The tasks by name; while Invoke lists tasks, those to be listed."""
        configured = _configured_for_listing()
        if configured is None:
            return self._tasks
        listed = Lexicon()  # type: ignore[no-untyped-call]  # Invoke does not annotate it
        listed.update({name: task for name, task in self._tasks.items() if self._is_listed(name, configured)})
        return listed

    @tasks.setter
    def tasks(self, tasks: Lexicon) -> None:
        self._tasks = tasks


def _configured_for_listing() -> Configured | None:
    """Return what is configured for the Invoke program that lists its tasks at the moment.

    None where everything is to be listed: for ``--list COLLECTION``, for a depth (which lists counts), for a
    configuration that cannot be used, and with a runtime file, which Invoke reads only after it has listed the tasks.
    INVOKE_* variables do not count, because Invoke reads them later.
    """
    program: Program | None = caller_of(Program.list_tasks)
    if program is None:
        return None
    if program.scoped_collection is not program.collection or program.list_depth:
        return None
    if program.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG"):
        return None
    # The files, and `ns.configure` in a tasks.py.
    sources: tuple[Any, ...] = (program.config, program.collection.configuration())
    sections, gates = set[str](), set[str]()
    try:
        for source in sources:
            sections |= set(source)
            gates |= set(source.get("release", {}).get("gates", {}).keys())
    except AttributeError:  # a section that is not a mapping
        return None
    return Configured(sections, gates)
