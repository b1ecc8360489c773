"""Which display a person sees while a stage runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from release_tasks.core.events import Event
from release_tasks.core.runner import is_listening
from release_tasks.report.live import LiveDisplay
from release_tasks.report.plain import PlainLines
from release_tasks.report.terminal import Screen

__all__ = ["Display", "display_for"]


class Display(Protocol):
    """Shows events as they come, from whatever thread; once left, it is gone or settled, and the cursor is back."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End to show, whatever ended the stage."""

    def __call__(self, event: Event) -> None:
        """Show one event."""


def display_for(screen: Screen) -> Display:
    """Return what shows events here: a display of another place goes before the two of a terminal and a log."""
    if is_listening():
        from release_tasks.report.github import GroupedLines

        return GroupedLines(screen)
    if (console := screen.live()) is not None:
        return LiveDisplay(console, screen.progress_look)
    return PlainLines(screen)
