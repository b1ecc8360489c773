"""A watch as a person reads it: its verdict and what comes next."""

from __future__ import annotations

from typing import Any

from release_tasks.core.records import RollbackOutcome
from release_tasks.report.advice import after_watch
from release_tasks.report.screen import Screen
from release_tasks.report.summaries import show_outcome

__all__ = ["show_watch"]


def show_watch(screen: Screen, report: dict[str, Any], outcome: RollbackOutcome | None) -> None:
    """Show how a watch ended and why, its rollback, and what comes next; ``report`` is what ``--json`` prints."""
    counts = report["counts"]
    numbers = ", ".join(f"{counts[word]} {word}" for word in ("ok", "bad", "unknown"))
    release = f"release {report['releaseId']}" if report["releaseId"] else "the service"
    looks = f"{counts['looks']} look{'' if counts['looks'] == 1 else 's'}"
    screen.verdict(report["status"], f"{release}: {looks}, {numbers}")
    for sentence in report["reasons"]:
        screen.note(sentence)
    if outcome is not None:
        show_outcome(screen, outcome)
    for sentence in report["diagnostics"]:
        screen.note(sentence)
    if advice := after_watch(report["status"], report["diagnostics"]):
        screen.note(advice)
