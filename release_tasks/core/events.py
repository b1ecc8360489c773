"""The events that a stage emits while it runs; a consumer, such as a display, decides how to show them.

A consumer may be called from several threads at the same time, and also late, by a gate that was abandoned. Stages
ignore the exceptions of a consumer (see ``shielded``), except KeyboardInterrupt and Interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal

from attrs import define, evolve, field, frozen

from release_tasks.core.records import Check, HealthReport

__all__ = [
    "BytesMoved",
    "Emit",
    "Event",
    "GateBegan",
    "GateEnded",
    "HealthAnswered",
    "LookTaken",
    "Meter",
    "Noted",
    "SampleTaken",
    "StepBegan",
    "ignore",
    "shielded",
    "within",
]

Action = Literal["capture", "check", "verify", "copy", "stage", "restore"]


@frozen
class StepBegan:
    """A stage starts a step, and its previous step is finished. ``name`` is the step, ``subject`` what it works on."""

    name: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.subject}".rstrip()


@frozen
class Noted:
    """A message for the operator before a stage continues, as a whole sentence."""

    sentence: str

    def __str__(self) -> str:
        return self.sentence


@frozen
class GateBegan:
    """A gate starts."""

    gate: str


@frozen
class GateEnded:
    """A gate has a result. A gate that was skipped has a result without a start."""

    check: Check


@frozen
class BytesMoved:
    """Progress of one asset: ``done`` of ``total`` bytes are read; both are 0 or more.

    Actions: ``capture`` copies live state to a snapshot, ``check`` reads the new copy, ``verify`` reads a stored
    snapshot, ``copy`` copies a snapshot to a scratch folder, ``stage`` and ``restore`` copy stored bytes back.
    ``total`` changes when a live asset grows or shrinks. At the end, ``done`` equals ``total``.
    """

    action: Action
    key: str
    done: int
    total: int


@frozen
class HealthAnswered:
    """One request to a health endpoint has finished, with or without an answer.

    ``streak`` is the number of consecutive healthy answers, and ``needed`` the number that is required. ``left`` is the
    time to the deadline in seconds, or 0 when a single request decides. ``gate`` is the gate that sent the request, or
    None outside of gates.
    """

    report: HealthReport
    streak: int
    needed: int
    left: float
    gate: str | None = None


@frozen(kw_only=True)
class SampleTaken:
    """One sample of a watch, as in ``--json``: ``latency_ms`` in milliseconds, ``why`` as whole sentences."""

    time: str
    finding: Literal["ok", "bad", "unknown"]
    health: str | None = None
    latency_ms: int | None = None
    why: list[str] = field(factory=list)
    detail: str = ""


LookTaken = SampleTaken  # the former name, for programs that import it

Event = StepBegan | Noted | GateBegan | GateEnded | BytesMoved | HealthAnswered | SampleTaken
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing with the event."""


def shielded(emit: Emit) -> Emit:
    """Return an ``emit`` that ignores exceptions of the consumer.

    A closed terminal, a log on a full disk or a bug in a display must not stop a restore during the swap.
    """
    if emit is ignore:
        return ignore

    def emit_safely(event: Event) -> None:
        with contextlib.suppress(Exception):
            emit(event)

    return emit_safely


def within(outer: str, emit: Emit) -> Emit:
    """Return an ``emit`` for a stage inside another stage: it reports the steps as steps of ``outer``."""

    def emit_named(event: Event) -> None:
        emit(evolve(event, name=f"{outer}: {event.name}") if isinstance(event, StepBegan) else event)

    return ignore if emit is ignore else emit_named


@define(eq=False)
class Meter:
    """Counts the bytes of one asset for the display; ``total`` is the expected number. Not thread-safe."""

    _emit: Emit
    _action: Action
    _key: str
    total: int
    done: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        """Report ``count`` more bytes; the count is negative when a file is read again from the start."""
        self.reach(self.done + count, self.total)

    def reach(self, done: int, total: int) -> None:
        """Report the progress."""
        self.done, self.total = done, max(done, total)
        self._emit(BytesMoved(self._action, self._key, self.done, self.total))

    def finish(self) -> None:
        """Report that all bytes are read."""
        self.reach(self.done, self.done)
