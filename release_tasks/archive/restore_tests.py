"""The restore test of each snapshot, read from the drills in drill-audit.log."""

from __future__ import annotations

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.typed import typed

__all__ = ["RestoreTest", "RestoreTests", "read_restore_tests"]


@frozen(kw_only=True)
class RestoreTest:
    """The result of the latest drill of a snapshot. ``booted``: a service was healthy on the restored state."""

    status: str  # passed | failed
    at: str
    booted: bool
    detail: str


@frozen(kw_only=True)
class RestoreTests:
    """The restore tests by snapshot id. ``problem`` is the reason why the recorded drills do not count."""

    by_snapshot: dict[str, RestoreTest] = field(factory=dict)
    problem: str | None = None


def read_restore_tests(pipeline: Pipeline) -> RestoreTests:
    """Read the latest drill of each snapshot that still has the digest of that drill.

    A drill without a result (disk full, snapshot removed meanwhile) is ignored. When the log was altered, no drill
    counts.
    """
    verdict = pipeline.drill_audit.verify()
    if not verdict.intact:
        broken = f"{pipeline.drill_audit.path.name} is broken ({verdict.problems[0]}), so no drill in it counts."
        return RestoreTests(problem=f"{broken} Move the log away and run the drills again: {typed('release.drill')}")
    latest = {
        str(event.get("snapshotId")): event
        for event in verdict.events
        if event.get("event") in ("drill.passed", "drill.failed") and event.get("conclusive") is not False
    }
    by_snapshot: dict[str, RestoreTest] = {}
    for snapshot in pipeline.catalogue.published()[0]:
        event = latest.get(snapshot.snapshot_id, {})
        if snapshot.digest and event.get("digest") == snapshot.digest:
            by_snapshot[snapshot.snapshot_id] = RestoreTest(
                status=str(event.get("status")),
                at=str(event.get("time")),
                booted=event.get("booted") is True,
                detail=str(event.get("detail", "")),
            )
    return RestoreTests(by_snapshot=by_snapshot)
