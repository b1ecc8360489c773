"""Which snapshots a drill has proved restorable, as drill-audit.log tells it."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline

__all__ = ["Proof", "Proofs", "proofs"]


@frozen(kw_only=True)
class Proof:
    """How the newest drill of a snapshot ended. ``booted``: a service got healthy on what was restored."""

    status: str  # passed | failed
    at: str
    booted: bool
    detail: str


@frozen(kw_only=True)
class Proofs:
    """Every proof by the id of its snapshot; ``problem`` says why there are none although drills were run."""

    by_snapshot: dict[str, Proof] = field(factory=dict)
    problem: str | None = None


def proofs(pipeline: Pipeline) -> Proofs:
    """Read the newest drill of each snapshot that still has the digest it had then.

    A drill that could not be carried out (no room, the snapshot removed meanwhile) says nothing and is passed over.
    Of a log that was altered nothing counts.
    """
    verdict = pipeline.drill_audit.verify()
    if not verdict.intact:
        found = f"{pipeline.drill_audit.path.name} is broken ({verdict.problems[0]})"
        return Proofs(problem=f"{found}, so no drill in it counts. Run the drills again with the log moved away.")
    newest = {str(event.get("snapshotId")): event for event in verdict.events if _is_conclusive(event)}
    snapshots, _ = pipeline.catalogue.published()
    return Proofs(
        by_snapshot={
            snapshot.snapshot_id: _proof(newest[snapshot.snapshot_id])
            for snapshot in snapshots
            if snapshot.digest and newest.get(snapshot.snapshot_id, {}).get("digest") == snapshot.digest
        }
    )


def _is_conclusive(event: dict[str, Any]) -> bool:
    return event.get("event") in ("drill.passed", "drill.failed") and event.get("conclusive") is not False


def _proof(event: dict[str, Any]) -> Proof:
    return Proof(
        status=str(event.get("status")),
        at=str(event.get("time")),
        booted=event.get("booted") is True,
        detail=str(event.get("detail", "")),
    )
