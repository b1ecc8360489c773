"""What a stage reports while it runs, as values: stages emit them, displays decide how to show them.

A consumer may be called from several threads at once, and late: by a gate that was given up. What it raises is
dropped by the stages (see ``shielded``); only KeyboardInterrupt and Interrupted go on their way.
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
    """A stage begins its next step, which ends the one before: ``name`` says what, ``subject`` of what."""

    name: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.subject}".rstrip()


@frozen
class Noted:
    """Something to know before a stage goes on, as a whole sentence."""

    sentence: str

    def __str__(self) -> str:
        return self.sentence


@frozen
class GateBegan:
    """A gate begins to run."""

    gate: str


@frozen
class GateEnded:
    """A gate has its result; one that was held back has it without having begun."""

    check: Check


@frozen
class BytesMoved:
    """So much of one asset has been read: ``done`` of ``total`` bytes, both of them never less than 0.

    ``capture`` reads live state into a snapshot, ``check`` the copy just made, ``verify`` a stored snapshot, ``copy``
    a snapshot into a scratch folder; ``stage`` and ``restore`` bring stored bytes back. A live asset may grow or
    shrink, and ``total`` with it; with the last byte ``done`` is ``total``.
    """

    action: Action
    key: str
    done: int
    total: int


@frozen
class HealthAnswered:
    """One request to a health endpoint is over, answered or not.

    ``streak`` is how many healthy answers came in a row and ``needed`` how many must; ``left`` is the time to the
    deadline in seconds, 0 where one request decides. ``gate`` is the gate that asks, None outside of gates.
    """

    report: HealthReport
    streak: int
    needed: int
    left: float
    gate: str | None = None


@frozen(kw_only=True)
class SampleTaken:
    """One sample of a watch, as ``--json`` has it: ``latency_ms`` in milliseconds, ``why`` in sentences."""

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
    """Do nothing: nothing is displayed."""


def shielded(emit: Emit) -> Emit:
    """Return ``emit`` such that a consumer that fails changes nothing for the stage.

    A terminal that hung up, a log on a full disk, a defect in a display must not end a restore in mid-swap.
    """
    if emit is ignore:
        return ignore

    def emit_safely(event: Event) -> None:
        with contextlib.suppress(Exception):
            emit(event)

    return emit_safely


def within(outer: str, emit: Emit) -> Emit:
    """Return ``emit`` for a stage inside another one: its steps are reported as steps of ``outer``."""

    def emit_named(event: Event) -> None:
        emit(evolve(event, name=f"{outer}: {event.name}") if isinstance(event, StepBegan) else event)

    return ignore if emit is ignore else emit_named


@define(eq=False)
class Meter:
    """Counts the bytes of one asset for the display; ``total`` is what is expected. Not for use by several threads."""

    _emit: Emit
    _action: Action
    _key: str
    total: int
    done: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        """Report ``count`` more bytes; a negative count when a file is read again from its beginning."""
        self.reach(self.done + count, self.total)

    def reach(self, done: int, total: int) -> None:
        """Report how far it is by now."""
        self.done, self.total = done, max(done, total)
        self._emit(BytesMoved(self._action, self._key, self.done, self.total))

    def finish(self) -> None:
        """Report that all bytes are read."""
        self.reach(self.done, self.done)
