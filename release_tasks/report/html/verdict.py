"""How a release stands: in a word and a sentence, at a glance, and what else its reader must know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Check, Manifest
from release_tasks.core.units import show_count, show_size
from release_tasks.report.html.history import Rollback, word_of
from release_tasks.report.html.snapshot import Snapshot
from release_tasks.report.values import text, texts
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["Fact", "ReleaseVerdict", "facts_of", "notifications_of", "verdict_of"]

_MOST_REASONS = 20


@frozen
class ReleaseVerdict:
    """How the release stands: one word, a sentence, and what speaks for it."""

    word: str
    sentence: str
    reasons: list[str]


@frozen
class Fact:
    """One thing to know at a glance; ``section`` is where the page says more of it."""

    section: str
    label: str
    value: str
    note: str
    tone: Meaning


def verdict_of(
    file: ManifestFile, rollbacks: Sequence[Rollback], events: Sequence[dict[str, Any]], is_degraded: bool
) -> ReleaseVerdict:
    """Return the verdict on a release; ``rollbacks`` and ``events`` are those about it."""
    manifest = file.manifest
    word = word_of(manifest, rollbacks, is_degraded=is_degraded)
    if manifest is None:
        sentence = "Its manifest cannot be read, so what was checked and captured is not known."
        return ReleaseVerdict(word, sentence, [text(file.reason)])
    reasons = texts(manifest.diagnostics, _MOST_REASONS)
    if word == "blocked":
        *others, last = [check.id for check in manifest.preflight.checks if check.blocks] or [""]
        names = f"{', '.join(others)} and {last}" if others else last
        sentence = f"Not to be deployed: {names} did not pass." if names else "Not to be deployed."
    elif word == "ready":
        checks = manifest.preflight.checks
        passed = sum(check.status == "passed" for check in checks)
        sentence = f"{passed} of {len(checks)} gates passed, and the state before the release was captured."
        if watches := [event for event in events if event.get("event") == "watch.finished"]:
            sentence += f" The watch after the deploy found it {text(watches[-1].get('status'), 40)}."
    else:
        watches = [event for event in events if event.get("event") == "watch.degraded"]
        reasons = (texts(watches[-1].get("reasons"), _MOST_REASONS) if watches else []) + reasons
        sentence = "The watch after the deploy found it degraded, and it was not taken back."
        if word != "degraded":
            sentence = _rolled_back(rollbacks)
    return ReleaseVerdict(word, text(sentence), reasons)


def _rolled_back(rollbacks: Sequence[Rollback]) -> str:
    last = next(r for r in reversed(rollbacks) if r.took_effect or r.status == "in_progress")
    if last.status == "in_progress":
        return f"A rollback by {last.actor} began, and no end of it is recorded: inv release.recover"
    if last.status == "restored":
        got_well = ", and the service got well on it" if isinstance(last.health, dict) else ""
        return f"It was taken back by {last.actor}: the state before it is live{got_well}."
    return f"It was taken back by {last.actor}, and the service did not get well on the state before it."


def notifications_of(pipeline: Pipeline, files: Sequence[ManifestFile], this: ManifestFile) -> list[str]:
    """Return what is going on around the release that may make this page out of date."""
    notices = []
    holder = current_holder(pipeline.root)
    if holder is not None:
        notices.append(f"Another run was at work when this page was made: {text(str(holder), 300)}.")
    elif pipeline.has_journal():
        notices.append("A rollback was interrupted in mid-swap. Before the service is started: inv release.recover")
    ready = [f.manifest for f in files if f.manifest is not None and f.manifest.status == "ready"]
    newest = ready[-1] if ready and ready[-1].release_id != this.release_id else None
    if newest is not None and (this.manifest is None or newest.sequence > this.manifest.sequence):
        notices.append(f"A newer release is ready: {newest.release_id}.")
    unreadable = [file.release_id for file in files if file.manifest is None and file.release_id != this.release_id]
    if unreadable:
        notices.append(f"The manifests of other releases cannot be read: {text(', '.join(unreadable), 300)}.")
    return notices


def facts_of(manifest: Manifest | None, snapshot: Snapshot | None, audit: AuditVerdict, events: int) -> list[Fact]:
    """Return what is known of gates, snapshot, drill, health and audit, in this order; ``events`` counts its own."""
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
    drill = Fact("snapshot", "Drill", "none", "nothing to rehearse", "quiet")
    if snapshot is None:
        value, note = ("none", "nothing was captured") if is_known else ("unknown", "its manifest would say")
        return [Fact("snapshot", "Snapshot", value, note, "quiet"), drill]
    if not snapshot.assets:
        value = "unreadable" if snapshot.is_there else "gone"
        return [Fact("snapshot", "Snapshot", value, "see why", snapshot.tone), drill]
    note = {"good": "verified now", "bad": "damaged", "warn": "unverifiable", "quiet": ""}[snapshot.tone]
    proof = {"good": "passed", "bad": "failed", "warn": "never", "quiet": "none"}[snapshot.proof_tone]
    proof_note = "restored in a scratch copy" if snapshot.proof_tone == "good" else "restorable is not proved"
    drill = Fact("snapshot", "Drill", proof, proof_note, snapshot.proof_tone)
    return [Fact("snapshot", "Snapshot", show_size(snapshot.size), note, snapshot.tone), drill]
