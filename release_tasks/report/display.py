"""Which display a person sees while a stage runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from release_tasks.core.events import Emit
from release_tasks.core.runner import is_github_actions
from release_tasks.report.github import GroupedLines
from release_tasks.report.progress import LiveDisplay, PlainLines
from release_tasks.report.screen import Screen

__all__ = ["display_for"]


def display_for(screen: Screen) -> AbstractContextManager[Emit]:
    """Return what shows events here: that of a runner goes before the two of a terminal and a log."""
    if is_github_actions():
        return nullcontext(GroupedLines(screen))
    if (console := screen.live()) is not None:
        return LiveDisplay(console, screen.progress_look)
    return nullcontext(PlainLines(screen))
