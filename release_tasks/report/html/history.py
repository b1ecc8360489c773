"""The newest releases, how many of them were taken back, and how long that took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from release_tasks.archive.pipeline import ManifestFile
from release_tasks.core.records import Manifest
from release_tasks.report.html.notifications import text
from release_tasks.report.html.page import History, Past, Rollback, Tone
from release_tasks.report.html.rollbacks import rollbacks_of

__all__ = ["degraded_releases", "history_of", "word_of"]

_MOST_RELEASES = 20
_WATCHED = ("watch.degraded", "watch.finished")


def degraded_releases(events: Sequence[dict[str, Any]]) -> set[str]:
    """Return the releases whose last watch found them degraded."""
    last = {text(event.get("releaseId")): event for event in events if event.get("event") in _WATCHED}
    return {release_id for release_id, event in last.items() if event.get("status") == "degraded"}


def history_of(
    files: Sequence[ManifestFile],
    rollbacks: Sequence[Rollback],
    snapshots: set[str],
    degraded: set[str],
    this: str,
    problem: str,
) -> History:
    """Return the last 20 releases.

    ``snapshots`` are those that are still there, ``degraded`` the releases that a watch found so, and ``problem`` says
    why the log cannot be relied on. A release failed when its snapshot went live again, whether or not the service
    got well on it.
    """
    newest = list(reversed(files))[:_MOST_RELEASES]
    rows = [_past(file, list(rollbacks), snapshots, degraded, this) for file in newest]
    ready = [file.manifest for file in newest if file.manifest is not None and file.manifest.status == "ready"]
    taken_back = [manifest for manifest in ready if _effective(manifest, list(rollbacks))]
    seconds = sorted(row.seconds_to_restore for row in rows if row.seconds_to_restore is not None)
    return History(
        rows=rows,
        total=len(files),
        ready=len(ready),
        blocked=sum(file.manifest is not None and file.manifest.status == "blocked" for file in newest),
        taken_back=len(taken_back),
        failed_share=len(taken_back) / len(ready) if ready else None,
        median_seconds=statistics.median(seconds) if seconds else None,
        longest_seconds=seconds[-1] if seconds else None,
        problem=problem,
    )


def word_of(manifest: Manifest | None, rollbacks: Sequence[Rollback], *, is_degraded: bool) -> tuple[str, Tone]:
    """Return the one word for how a release stands; ``rollbacks`` are those of this release."""
    if manifest is None:
        return "unreadable", "bad"
    if manifest.status == "blocked":
        return "blocked", "bad"
    last = next((r for r in reversed(rollbacks) if r.took_effect or r.status == "in_progress"), None)
    if last is None:
        return ("degraded", "warn") if is_degraded else ("ready", "good")
    if last.status == "in_progress":
        return "rollback unfinished", "bad"
    return ("rolled back", "warn") if last.status == "restored" else ("rolled back, unwell", "bad")


def _effective(manifest: Manifest, rollbacks: list[Rollback]) -> list[Rollback]:
    snapshot_id = manifest.snapshot.snapshot_id if manifest.snapshot else None
    return [r for r in rollbacks_of(rollbacks, manifest.release_id, snapshot_id) if r.took_effect]


def _past(file: ManifestFile, rollbacks: list[Rollback], snapshots: set[str], degraded: set[str], this: str) -> Past:
    manifest = file.manifest
    snapshot_id = manifest.snapshot.snapshot_id if manifest is not None and manifest.snapshot is not None else None
    own = rollbacks_of(rollbacks, file.release_id, snapshot_id) if manifest is not None else []
    word, tone = word_of(manifest, own, is_degraded=file.release_id in degraded)
    if manifest is None:
        return Past(
            release_id=file.release_id,
            word=word,
            tone=tone,
            version="",
            prepared_at=None,
            gates="",
            snapshot="",
            seconds_to_restore=None,
            is_this=file.release_id == this,
            detail=text(file.reason, 300),
        )
    checks = manifest.preflight.checks
    restored = [r.seconds for r in own if r.status == "restored" and r.seconds is not None]
    return Past(
        release_id=file.release_id,
        word=word,
        tone=tone,
        version=text(manifest.app_version, 100),
        prepared_at=text(manifest.generated_at, 40),
        gates=f"{sum(check.status == 'passed' for check in checks)}/{len(checks)}",
        snapshot="" if snapshot_id is None else "kept" if snapshot_id in snapshots else "gone",
        seconds_to_restore=restored[-1] if restored else None,
        is_this=file.release_id == this,
        detail=text(manifest.diagnostics[0], 300) if manifest.diagnostics else "",
    )
