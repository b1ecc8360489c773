"""What a person sees while a stage runs: its events, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from release_tasks.events import Event, GateBegan, GateEnded, Noted, StepBegan
from release_tasks.report.terminal import Screen

__all__ = ["Display", "PlainLines", "display_for"]


class Display(Protocol):
    """Shows events as they come, from whatever thread; left, it is gone or settled."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End to show, whatever ended the stage."""

    def __call__(self, event: Event) -> None:
        """Show one event."""


def display_for(screen: Screen, environ: Mapping[str, str]) -> Display:
    """Return what shows events here."""
    return PlainLines(screen)


class PlainLines:
    """A line for each thing that begins or ends."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Write the line of one event, if it has one."""
        match event:
            case StepBegan() | Noted():
                self._screen.step(str(event))
            case GateBegan(gate):
                self._screen.step(f"gate {gate}")
            case GateEnded(check):
                self._screen.step(f"gate {check.id}: {check.status}")
            case _:
                pass
