"""The verdict on a release, its key facts, and warnings about the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Check, Manifest
from release_tasks.core.typed import typed
from release_tasks.core.units import show_count, show_size
from release_tasks.report.html.history import Rollback, word_of
from release_tasks.report.html.snapshot import Snapshot
from release_tasks.report.values import text, texts
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["Fact", "ReleaseVerdict", "facts_of", "verdict_of", "warnings_of"]

_MOST_REASONS = 20


@frozen
class ReleaseVerdict:
    """The verdict on a release: one word, a message, and the reasons."""

    word: str
    message: str
    reasons: list[str]


@frozen
class Fact:
    """One key fact; ``section`` is the part of the page with the details."""

    section: str
    label: str
    value: str
    note: str
    tone: Meaning


def verdict_of(
    file: ManifestFile, rollbacks: Sequence[Rollback], events: Sequence[dict[str, Any]], is_degraded: bool
) -> ReleaseVerdict:
    """Return the verdict on a release from its rollbacks and its audit events."""
    manifest = file.manifest
    word = word_of(manifest, rollbacks, is_degraded=is_degraded)
    if manifest is None:
        message = "Its manifest cannot be read, so the results of its gates are unknown."
        return ReleaseVerdict(word, message, [text(file.reason)])
    reasons = texts(manifest.diagnostics, _MOST_REASONS)
    if word == "blocked":
        *others, last = [check.id for check in manifest.preflight.checks if check.blocks] or [""]
        names = f"{', '.join(others)} and {last}" if others else last
        message = f"Do not deploy it: {names} did not pass." if names else "Do not deploy it."
    elif word == "ready":
        checks = manifest.preflight.checks
        passed = sum(check.status == "passed" for check in checks)
        message = f"{passed} of {len(checks)} gates passed, and a snapshot of the state before the release was taken."
        if watches := [event for event in events if event.get("event") == "watch.finished"]:
            message += f" The watch after the deploy found it {text(watches[-1].get('status'), 40)}."
    else:
        watches = [event for event in events if event.get("event") == "watch.degraded"]
        reasons = (texts(watches[-1].get("reasons"), _MOST_REASONS) if watches else []) + reasons
        message = "The watch after the deploy found it degraded. It was not rolled back."
        if word != "degraded":
            message = _rolled_back(rollbacks)
    return ReleaseVerdict(word, text(message), reasons)


def _rolled_back(rollbacks: Sequence[Rollback]) -> str:
    last = next(r for r in reversed(rollbacks) if r.took_effect or r.status == "in_progress")
    if last.status == "in_progress":
        return f"{last.actor} started a rollback, and its end is not recorded: {typed('release.recover')}"
    if last.status == "restored":
        health = ", and the service became healthy on it" if isinstance(last.health, dict) else ""
        return f"{last.actor} rolled it back: the state before it was restored{health}."
    return f"{last.actor} rolled it back, but the service did not become healthy on the state before it."


def warnings_of(pipeline: Pipeline, files: Sequence[ManifestFile], this: ManifestFile) -> list[str]:
    """Return warnings about other activity that may make this page out of date."""
    warnings = []
    holder = current_holder(pipeline.root)
    if holder is not None:
        warnings.append(f"Another command was running when this page was made: {text(str(holder), 300)}.")
    elif pipeline.has_journal():
        warnings.append(
            "A rollback was interrupted while it changed files. "
            f"Before the service starts, run: {typed('release.recover')}"
        )
    ready = [f.manifest for f in files if f.manifest is not None and f.manifest.status == "ready"]
    latest = ready[-1] if ready and ready[-1].release_id != this.release_id else None
    if latest is not None and (this.manifest is None or latest.sequence > this.manifest.sequence):
        warnings.append(f"A later release is ready: {latest.release_id}.")
    unreadable = [file.release_id for file in files if file.manifest is None and file.release_id != this.release_id]
    if unreadable:
        warnings.append(f"The manifests of other releases cannot be read: {text(', '.join(unreadable), 300)}.")
    return warnings


def facts_of(manifest: Manifest | None, snapshot: Snapshot | None, audit: AuditVerdict, events: int) -> list[Fact]:
    """Return the key facts: gates, snapshot, drill, health, audit; ``events`` is the number of its audit events."""
    facts = [_gates(manifest.preflight.checks)] if manifest is not None else []
    facts += _snapshot(snapshot, is_known=manifest is not None)
    if manifest is not None and manifest.baseline is not None:
        health, latency = text(manifest.baseline.health, 40) or "unknown", manifest.baseline.latency_ms
        note = "before the release" if latency is None else f"{latency} ms before the release"
        facts.append(Fact("health", "Health", health, note, meaning_of(health)))
    word = "intact" if audit.intact else "broken"
    facts.append(Fact("audit", "Audit chain", word, f"{show_count(events, 'event')} of this release", meaning_of(word)))
    return facts


def _gates(checks: Sequence[Check]) -> Fact:
    counts = Counter(
        "left out" if check.is_left_out else f"{check.status} (advisory)" if check.advisory else check.status
        for check in checks
        if check.status != "passed" or check.is_left_out
    )
    others = ", ".join(f"{count} {word}" for word, count in counts.items())
    tone: Meaning = "bad" if any(check.blocks for check in checks) else "warn" if others else "good"
    return Fact("gates", "Gates", f"{len(checks) - counts.total()} of {len(checks)}", others or "all passed", tone)


def _snapshot(snapshot: Snapshot | None, *, is_known: bool) -> list[Fact]:
    drill = Fact("snapshot", "Drill", "none", "no snapshot to restore", "quiet")
    if snapshot is None:
        value, note = ("none", "nothing was captured") if is_known else ("unknown", "the manifest cannot be read")
        return [Fact("snapshot", "Snapshot", value, note, "quiet"), drill]
    if not snapshot.assets:
        value = "unreadable" if snapshot.exists else "deleted"
        return [Fact("snapshot", "Snapshot", value, "see the reason", snapshot.tone), drill]
    note = {"good": "verified now", "bad": "damaged", "warn": "unverifiable", "quiet": ""}[snapshot.tone]
    result = {"good": "passed", "bad": "failed", "warn": "never", "quiet": "none"}[snapshot.test_tone]
    result_note = "restored in a scratch copy" if snapshot.test_tone == "good" else "not restore-tested"
    drill = Fact("snapshot", "Drill", result, result_note, snapshot.test_tone)
    return [Fact("snapshot", "Snapshot", show_size(snapshot.size), note, snapshot.tone), drill]
