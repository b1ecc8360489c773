"""A drill as a person reads it."""

from __future__ import annotations

from typing import Any

from release_tasks.report.advice import after_drill
from release_tasks.report.screen import Screen

__all__ = ["show_drill"]


def show_drill(screen: Screen, found: dict[str, Any]) -> None:
    """Show what a drill found, given as its JSON document."""
    if found["assets"]:
        rows = [(asset["key"], asset["kind"], asset["status"], asset["detail"]) for asset in found["assets"]]
        screen.table(("ASSET", "KIND", "RESULT", "DETAIL"), rows)
    for database in found["databases"]:
        tables = ", ".join(f"{name} {'?' if rows is None else rows}" for name, rows in database["tables"].items())
        screen.note(f"{database['key']}: integrity_check {database['integrity']}; rows: {tables or 'none'}")
    boot = found["boot"]
    if boot is not None:
        screen.note(f"started: {boot['command']}; {boot['url']}: {boot['detail']}")
        for line in boot["outputTail"]:
            screen.note(f"| {line}")
    snapshot = found["snapshotId"] or "the newest snapshot"
    seconds = f"{found['durationMs'] / 1000:.1f} s"
    if found["status"] == "passed":
        also = " and a service got healthy on it" if boot else ""
        screen.verdict("passed", f"{snapshot} can be restored{also}; it took {seconds}, and nothing live was touched")
    else:
        screen.verdict("failed", f"drill of {snapshot}, after {seconds}")
    for sentence in found["diagnostics"]:
        screen.note(sentence)
    if advice := after_drill(found["status"], found["diagnostics"]):
        screen.note(advice)
