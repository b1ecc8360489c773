"""Collections that leave tasks out of ``inv --list`` where the project has nothing configured for them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

from invoke import Collection, Config, Program
from invoke.util import Lexicon

__all__ = ["ListedCollection", "configured_gates", "has_section"]


class ListedCollection(Collection):
    """A collection whose listing contains only the tasks for which ``is_listed`` is true; every task still runs.

    ``is_listed`` takes the name of a task and the configuration that Invoke has loaded.
    """

    def __init__(self, name: str, is_listed: Callable[[str, Config], bool]) -> None:
        self._is_listed = is_listed
        super().__init__(name)

    # Invoke builds the namespace before it reads the configuration, and reads the attribute `tasks` of a collection
    # both for the parser and for the listing.
    @property
    def tasks(self) -> Lexicon:
        """The tasks by name; while Invoke lists tasks, those to be listed."""
        config = _config_of_listing()
        if config is None:
            return self._tasks
        listed = Lexicon()  # type: ignore[no-untyped-call]  # Invoke does not annotate it
        listed.update({name: task for name, task in self._tasks.items() if self._is_listed(name, config)})
        return listed

    @tasks.setter
    def tasks(self, tasks: Lexicon) -> None:
        self._tasks = tasks


def has_section(config: Config, *names: str) -> bool:
    """Return whether the configuration has one of these top-level sections."""
    return any(name in config for name in names)


def configured_gates(config: Config) -> set[str]:
    """Return the names in ``release.gates``; none where the configuration has no gates.

    Raises AttributeError where one of the two is no mapping.
    """
    return set((config.get("release", {}).get("gates", {})).keys())


def _config_of_listing() -> Config | None:
    """Return the configuration of the Invoke program that lists its tasks at the moment.

    None where everything is to be listed: for ``--list COLLECTION``, for a depth (which lists counts), for a
    configuration that cannot be used, and with a runtime file, which Invoke reads only after it has listed the tasks.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "list_tasks":
        frame = frame.f_back
    program = frame.f_locals.get("self") if frame is not None else None
    if not isinstance(program, Program) or program.scoped_collection is not program.collection or program.list_depth:
        return None
    if program.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG"):
        return None
    config: Config = program.config
    try:
        configured_gates(config)
    except AttributeError:
        return None
    return config
