"""The interface of gates: the context that a gate receives and the verdict that it returns."""

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
    """The result of a gate; the engine redacts every text in it.

    ``command`` is the command or the request of the check. ``next`` in ``diagnostics`` is the command to type after a
    failure.
    """

    passed: bool
    detail: str
    command: str | None = None
    diagnostics: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class GateContext:
    """The context of one gate in one preflight.

    ``cancelled`` is set to stop the gate, which must end within half a second. ``log_path`` is the gate's file for long
    output; its folder may not exist yet. ``redactor`` removes the secrets of the environment and of the gate's ``env``.
    ``emit`` reports progress.
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
        """The part of the service that the gate checks."""
        return self.config.subsystem or self.name

    @property
    def health_url(self) -> str | None:
        """The health endpoint: ``--health-url``, or the configured URL."""
        return self.settings.release.health.url

    @property
    def is_strict(self) -> bool:
        """Whether a degraded service fails its health gate."""
        return self.settings.release.health.strict

    @property
    def project(self) -> Path:
        """The project folder; relative paths start there."""
        return self.settings.project

    @property
    def options(self) -> Mapping[str, Any]:
        """The options under ``with`` in invoke.yaml, for a gate of another package."""
        options: Mapping[str, Any] = getattr(self.config.options, "with_", {})
        return options

    @property
    def kind(self) -> GateKind:
        """The kind of this gate, which implements the check."""
        return cast(GateKind, self.config.kind)


Gate = Callable[[GateContext], Verdict]


@frozen(kw_only=True)
class GateKind:
    """A kind of gate.

    ``name`` is its key in invoke.yaml, and ``options`` the attrs class of its keys there. A kind that ``ends_itself``
    enforces the time limit and cleans up; the engine abandons a gate of another kind at its limit. A kind that
    ``asks_service`` cannot pass before the first deployment. ``author`` returns the name of the plugin, for the message
    about a missing result.
    """

    name: str
    options: type[Any]
    check: Gate
    ends_itself: bool = False
    asks_service: bool = False
    author: Callable[[GateContext], str] | None = None

    def limit(self, context: GateContext) -> float:
        """Return the seconds after which the engine abandons the gate."""
        if self.ends_itself:
            return float("inf")
        timeout = context.config.timeout
        return context.settings.release.health.timeout if timeout is None else timeout


def context_of(settings: Settings, name: str, log_directory: Path, *, emit: Emit = ignore) -> GateContext:
    """Return the context of the configured gate ``name``, with its log in ``log_directory``."""
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
    """Return ``path`` for messages: relative to the project folder if it is inside, else absolute."""
    is_inside = settings.project in path.parents
    return str(path.relative_to(settings.project)) if is_inside else str(path)
