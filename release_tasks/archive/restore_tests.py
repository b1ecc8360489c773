"""Which snapshots a drill has proved restorable, as drill-audit.log tells it."""

from __future__ import annotations

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline

__all__ = ["RestoreTest", "RestoreTests", "proofs"]


@frozen(kw_only=True)
class RestoreTest:
    """How the newest drill of a snapshot ended. ``booted``: a service got healthy on what was restored."""

    status: str  # passed | failed
    at: str
    booted: bool
    detail: str


@frozen(kw_only=True)
class RestoreTests:
    """Every proof by the id of its snapshot; ``problem`` says why there are none although drills were run."""

    by_snapshot: dict[str, RestoreTest] = field(factory=dict)
    problem: str | None = None


def proofs(pipeline: Pipeline) -> RestoreTests:
    """Read the newest drill of each snapshot that still has the digest it had then.

    A drill that could not be carried out (no room, the snapshot removed meanwhile) says nothing and is passed over.
    Of a log that was altered nothing counts.
    """
    verdict = pipeline.drill_audit.verify()
    if not verdict.intact:
        found = f"{pipeline.drill_audit.path.name} is broken ({verdict.problems[0]})"
        return RestoreTests(problem=f"{found}, so no drill in it counts. Run the drills again with the log moved away.")
    newest = {
        str(event.get("snapshotId")): event
        for event in verdict.events
        if event.get("event") in ("drill.passed", "drill.failed") and event.get("conclusive") is not False
    }
    proved: dict[str, RestoreTest] = {}
    for snapshot in pipeline.catalogue.published()[0]:
        event = newest.get(snapshot.snapshot_id, {})
        if snapshot.digest and event.get("digest") == snapshot.digest:
            proved[snapshot.snapshot_id] = RestoreTest(
                status=str(event.get("status")),
                at=str(event.get("time")),
                booted=event.get("booted") is True,
                detail=str(event.get("detail", "")),
            )
    return RestoreTests(by_snapshot=proved)
