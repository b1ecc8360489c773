"""The choice of the display that a person sees while a stage runs."""

from __future__ import annotations

from contextlib import AbstractContextManager

from release_tasks.core.events import Emit
from release_tasks.core.runner import is_github_actions
from release_tasks.report.github import GroupedLines
from release_tasks.report.heartbeat import Heartbeat
from release_tasks.report.progress import LiveDisplay, PlainLines
from release_tasks.report.screen import Screen

__all__ = ["display_for"]


def display_for(screen: Screen, *, answers_here: bool = False) -> AbstractContextManager[Emit]:
    """Return the display of events: for a CI runner that listens, for a terminal, or for a log.

    With ``answers_here`` the answer follows on ``screen``, with the result of each gate.
    """
    if is_github_actions():
        return Heartbeat(GroupedLines(screen))
    if (console := screen.live()) is not None:
        is_repeated = answers_here and screen.terminal.width is not None
        return LiveDisplay(console, screen.progress_terminal, keeps_gates=not is_repeated)
    return Heartbeat(PlainLines(screen))
