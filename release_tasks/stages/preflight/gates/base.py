"""What a kind of gate is given and what it gives back; a gate of one's own needs nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from attrs import field, frozen

from release_tasks.config.schema import GateConfig, Settings
from release_tasks.core.events import Emit, ignore
from release_tasks.core.redact import Redactor

__all__ = ["Gate", "GateContext", "GateKind", "Verdict", "context_of", "shown_path"]


@frozen(kw_only=True)
class Verdict:
    """What a gate found; the engine redacts every text in it.

    ``command`` is what was run or asked. ``next`` in ``diagnostics`` is what to type after a
    failure.
    """

    passed: bool
    detail: str
    command: str | None = None
    diagnostics: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class GateContext:
    """One gate in one run.

    ``cancelled`` is set when the run is stopped: a gate ends within half a second of that.
    ``log_path`` is the gate's own file for long output; its folder may still have to be made.
    ``redactor`` knows the secrets of the environment and of the gate's own ``env``. ``emit`` tells who looks what
    happens on the way.
    """

    settings: Settings
    name: str
    config: GateConfig
    cancelled: threading.Event
    log_path: Path
    redactor: Redactor
    emit: Emit = ignore

    @property
    def subsystem(self) -> str:
        """What the gate speaks for."""
        return self.config.subsystem or self.name

    @property
    def health_url(self) -> str | None:
        """The health endpoint of this run: typed with ``--health-url``, else the configured one."""
        return self.settings.release.health.url

    @property
    def is_strict(self) -> bool:
        """Whether a degraded service fails its health gate."""
        return self.settings.release.health.strict

    @property
    def project(self) -> Path:
        """The folder that relative paths start from."""
        return self.settings.project

    @property
    def options(self) -> Mapping[str, Any]:
        """What invoke.yaml says under ``with`` for a gate of another package."""
        options: Mapping[str, Any] = getattr(self.config.options, "with_", {})
        return options

    @property
    def kind(self) -> GateKind:
        """The kind of this gate, which knows how it is checked."""
        return cast(GateKind, self.config.kind)


Gate = Callable[[GateContext], Verdict]


@frozen(kw_only=True)
class GateKind:
    """A kind of gate.

    ``name`` is its key in invoke.yaml, and ``options`` the attrs class of its keys there. A kind that ``ends_itself``
    keeps the time limit and cleans up after it; a gate of another kind is given up at its limit. ``author`` names the
    package that gave no result then.
    """

    name: str
    options: type[Any]
    check: Gate
    ends_itself: bool = False
    author: Callable[[GateContext], str] | None = None

    def limit(self, context: GateContext) -> float:
        """Return the seconds after which the engine gives the gate up."""
        if self.ends_itself:
            return float("inf")
        timeout = context.config.timeout
        return context.settings.release.health.timeout if timeout is None else timeout


def context_of(settings: Settings, name: str, log_directory: Path, *, emit: Emit = ignore) -> GateContext:
    """Return what the configured gate of this name is given in a run that logs into ``log_directory``."""
    config = settings.release.gates[name]
    return GateContext(
        settings=settings,
        name=name,
        config=config,
        cancelled=threading.Event(),
        log_path=log_directory / f"{name}.log",
        redactor=Redactor.from_environment({**os.environ, **config.env}, settings.release.secret_variables),
        emit=emit,
    )


def shown_path(path: Path, settings: Settings) -> str:
    """Return ``path`` as people write it: relative to the project where it lies inside it."""
    is_inside = settings.project in path.parents
    return str(path.relative_to(settings.project)) if is_inside else str(path)
