"""The latest releases and the rollbacks in the audit log: which releases were rolled back, and how long that took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from attrs import evolve, frozen

from release_tasks.archive.pipeline import ManifestFile
from release_tasks.core.records import Manifest
from release_tasks.report.values import actor_of, number, seconds_between, text

__all__ = ["ReleaseHistory", "Rollback", "degraded_releases", "history_of", "read_rollbacks", "rollbacks_of", "word_of"]


@frozen(kw_only=True)
class Rollback:
    """One rollback; ``seconds`` is the time to restore, None until it has finished.

    ``seq`` is the number of its first event in the audit log.
    """

    seq: int = 0
    rollback_id: str
    release_id: str
    snapshot_id: str
    status: str
    started_at: str | None
    finished_at: str | None = None
    seconds: float | None = None
    detail: str = ""
    actor: str
    safety_snapshot_id: str | None = None
    health: object = None

    @property
    def took_effect(self) -> bool:
        """Whether its snapshot went live."""
        return self.status in ("restored", "live")


def read_rollbacks(events: Sequence[dict[str, Any]]) -> list[Rollback]:
    """Return every rollback that started, and each rollback that was a noop, in the order of the log."""
    found: dict[str, Rollback] = {}
    for event in events:
        kind = event.get("event")
        if kind == "rollback.started":
            found[text(event.get("rollbackId"))] = _started(event)
        elif kind in ("rollback.finished", "rollback.recovered", "rollback.refused"):
            rollback = found.get(text(event.get("rollbackId")))
            if rollback is None and kind == "rollback.refused":
                rollback = _abandoned(event, found)
            if rollback is None and kind == "rollback.finished":
                rollback = evolve(_started(event), started_at=None)  # a noop records no start
            if rollback is not None:
                found[rollback.rollback_id] = _finished(rollback, event)
    return list(found.values())


def rollbacks_of(rollbacks: Sequence[Rollback], release_id: str, snapshot_id: str | None) -> list[Rollback]:
    """Return the rollbacks that rolled this release back, or tried to."""
    return [r for r in rollbacks if r.release_id == release_id or (snapshot_id and r.snapshot_id == snapshot_id)]


def _started(event: dict[str, Any]) -> Rollback:
    return Rollback(
        seq=number(event.get("seq")) or 0,
        rollback_id=text(event.get("rollbackId")),
        release_id=text(event.get("releaseId")),
        snapshot_id=text(event.get("snapshotId")),
        status="in_progress",
        started_at=text(event.get("time")),
        actor=actor_of(event),
    )


def _abandoned(event: dict[str, Any], known: dict[str, Rollback]) -> Rollback | None:
    # The end of a rollback that changed nothing live has no rollback id. A run that was refused because another run
    # held the lock does not end a rollback.
    is_end = event.get("status") == "failed" or text(event.get("detail")).startswith("Interrupted")
    started = [rollback for rollback in known.values() if rollback.status == "in_progress"]
    return started[-1] if started and is_end else None


def _finished(rollback: Rollback, event: dict[str, Any]) -> Rollback:
    status, kind = text(event.get("status")), event.get("event")
    took = number(event.get("durationMs"))  # not in the logs of earlier versions, nor after a recovery
    is_named_end = kind == "rollback.finished" or (kind == "rollback.refused" and "rollbackId" in event)
    if status in ("failed", "refused") and is_named_end:
        status = "live"  # the snapshot went live, but the service is unhealthy on it
    return evolve(
        rollback,
        status=status,
        finished_at=text(event.get("time")),
        seconds=seconds_between(rollback.started_at, text(event.get("time"))) if took is None else took / 1000,
        detail=text(event.get("detail")),
        safety_snapshot_id=text(event.get("safetySnapshotId")) or None,
        health=event.get("health"),
    )


@frozen(kw_only=True)
class PastRelease:
    """One release in the history; ``snapshot`` is ``stored`` or ``deleted``, empty for a release without one."""

    file: ManifestFile
    word: str
    snapshot: str
    rolled_back: bool
    seconds_to_restore: float | None


@frozen(kw_only=True)
class ReleaseHistory:
    """The latest releases, latest first, of ``total``.

    ``failed_share`` is the share of the ready releases that were rolled back, None without a ready one. ``problem`` is
    the reason why the audit log is unreliable.
    """

    rows: list[PastRelease]
    total: int
    ready: int
    blocked: int
    rolled_back: int
    failed_share: float | None
    median_seconds: float | None
    longest_seconds: float | None
    problem: str


def degraded_releases(events: Sequence[dict[str, Any]]) -> set[str]:
    """Return the releases whose last watch found them degraded."""
    kinds = ("watch.degraded", "watch.finished")
    last = {text(event.get("releaseId")): event for event in events if event.get("event") in kinds}
    return {release_id for release_id, event in last.items() if event.get("status") == "degraded"}


def history_of(
    files: Sequence[ManifestFile], rollbacks: Sequence[Rollback], snapshots: set[str], degraded: set[str], problem: str
) -> ReleaseHistory:
    """Return the last 20 releases.

    ``snapshots`` are the ids of the existing snapshots; ``degraded`` are the releases that a watch found degraded. A
    release failed when its snapshot went live again, whether or not the service was healthy on it.
    """
    rows = [_past(file, rollbacks, snapshots, degraded) for file in files[::-1][:20]]
    statuses = [row.file.manifest.status for row in rows if row.file.manifest is not None]
    ready, blocked = statuses.count("ready"), statuses.count("blocked")
    rolled_back = sum(row.rolled_back for row in rows)
    seconds = [row.seconds_to_restore for row in rows if row.seconds_to_restore is not None]
    return ReleaseHistory(
        rows=rows,
        total=len(files),
        ready=ready,
        blocked=blocked,
        rolled_back=rolled_back,
        failed_share=rolled_back / ready if ready else None,
        median_seconds=statistics.median(seconds) if seconds else None,
        longest_seconds=max(seconds, default=None),
        problem=problem,
    )


def _past(file: ManifestFile, rollbacks: Sequence[Rollback], snapshots: set[str], degraded: set[str]) -> PastRelease:
    manifest = file.manifest
    snapshot_id = manifest.snapshot.snapshot_id if manifest is not None and manifest.snapshot is not None else None
    own = rollbacks_of(rollbacks, file.release_id, snapshot_id) if manifest is not None else []
    restored = [r.seconds for r in own if r.status == "restored" and r.seconds is not None]
    return PastRelease(
        file=file,
        word=word_of(manifest, own, is_degraded=file.release_id in degraded),
        snapshot="" if snapshot_id is None else "stored" if snapshot_id in snapshots else "deleted",
        rolled_back=manifest is not None and manifest.status == "ready" and any(r.took_effect for r in own),
        seconds_to_restore=restored[-1] if restored else None,
    )


def word_of(manifest: Manifest | None, rollbacks: Sequence[Rollback], *, is_degraded: bool) -> str:
    """Return the state of a release in one word; ``rollbacks`` are the rollbacks of this release."""
    if manifest is None:
        return "unreadable"
    if manifest.status == "blocked":
        return "blocked"
    last = next((r for r in reversed(rollbacks) if r.took_effect or r.status == "in_progress"), None)
    if last is None:
        return "degraded" if is_degraded else "ready"
    if last.status == "in_progress":
        return "rollback unfinished"
    return "rolled back" if last.status == "restored" else "rolled back, unwell"
