"""``release.diff``: what differs between two releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.tasks.executor import stage
from release_tasks.tasks.session import Session, session

if TYPE_CHECKING:
    from release_tasks.archive.diff import Comparison

__all__ = ["diff"]


@stage(
    help={
        "before": "The id of the earlier release.",
        "after": "The id of the later release.",
        "json": "Print exactly one JSON document on stdout.",
    }
)
def diff(ctx: Context, before: str, after: str, json: bool = False) -> None:
    """Show what differs between two releases: version, commit, gates, configuration, schema, rows, sizes."""
    with session(ctx, json) as current:
        from release_tasks.archive.diff import compare_releases
        from release_tasks.core.codec import encode

        comparison = compare_releases(current.settings, before, after)
        status = "different" if comparison.differences else "equal"
        current.document({"status": status, **encode(comparison)})
        if not current.as_json:
            _show(current, comparison)


def _show(current: Session, comparison: Comparison) -> None:
    rows = [
        (difference.where, difference.what, difference.how, difference.before or "", difference.after or "")
        for difference in comparison.differences
    ]
    current.screen.table(("WHERE", "WHAT", "HOW", "BEFORE", "AFTER"), rows)
    if not rows:
        current.screen.line(f"{comparison.before} and {comparison.after} differ in nothing that was recorded.")
    for note in comparison.notes:
        current.screen.note(note)
