"""What a kind of gate is given and what it gives back; a gate of one's own needs nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from release_tasks.config.schema import GateConfig, Settings
from release_tasks.core.events import Emit, ignore
from release_tasks.core.redact import Redactor

__all__ = ["Gate", "GateContext", "Verdict", "context_of", "shown_path"]


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
    health_url: str | None = None
    is_strict: bool = False
    emit: Emit = ignore

    @property
    def project(self) -> Path:
        """The folder that relative paths start from."""
        return self.settings.project

    @property
    def options(self) -> Mapping[str, Any]:
        """What invoke.yaml says under ``with`` for a gate of another package."""
        return self.config.with_


Gate = Callable[[GateContext], Verdict]


def context_of(
    settings: Settings,
    name: str,
    log_directory: Path,
    *,
    health_url: str | None = None,
    strict: bool = False,
    emit: Emit = ignore,
) -> GateContext:
    """Return what the configured gate of this name is given in a run that logs into ``log_directory``."""
    config = settings.release.gates[name]
    return GateContext(
        settings=settings,
        name=name,
        config=config,
        cancelled=threading.Event(),
        log_path=log_directory / f"{name}.log",
        redactor=Redactor.from_environment({**os.environ, **config.env}, settings.release.secret_variables),
        health_url=health_url,
        is_strict=strict,
        emit=emit,
    )


def shown_path(path: Path, settings: Settings) -> str:
    """Return ``path`` as people write it: relative to the project where it lies inside it."""
    is_inside = settings.project in path.parents
    return str(path.relative_to(settings.project)) if is_inside else str(path)
