"""The release at a glance: a handful of facts, each with the section that says more."""

from __future__ import annotations

from collections import Counter

from release_tasks.core.records import Check, Manifest
from release_tasks.core.units import show_size
from release_tasks.report.html.notifications import text, tone_of
from release_tasks.report.html.page import AuditTrail, Fact, Snapshot

__all__ = ["facts_of"]


def facts_of(manifest: Manifest | None, snapshot: Snapshot | None, audit: AuditTrail) -> list[Fact]:
    """Return what is known of gates, snapshot, proof, health and audit, in this order."""
    facts = [_gates(manifest)] if manifest is not None else []
    facts += [_snapshot(snapshot, is_known=manifest is not None), _proof(snapshot)]
    if manifest is not None and manifest.baseline is not None:
        facts.append(_health(manifest))
    chain = Fact(label="Audit chain", value=audit.word, note=_events(audit), tone=audit.tone, section="audit")
    return [*facts, chain]


def _gates(manifest: Manifest) -> Fact:
    checks = manifest.preflight.checks
    counts = Counter(_word(check) for check in checks)
    others = ", ".join(f"{count} {word}" for word, count in counts.items() if word != "passed")
    blocks = any(check.blocks for check in checks)
    return Fact(
        label="Gates",
        value=f"{counts['passed']} of {len(checks)}",
        note=others or "all passed",
        tone="bad" if blocks else "warn" if others else "good",
        section="gates",
    )


def _word(check: Check) -> str:
    if check.is_left_out:
        return "left out"
    return f"{check.status} (advisory)" if check.advisory and check.status != "passed" else check.status


def _snapshot(snapshot: Snapshot | None, *, is_known: bool) -> Fact:
    if snapshot is None:
        value, note = ("none", "nothing was captured") if is_known else ("unknown", "its manifest would say")
        return Fact(label="Snapshot", value=value, note=note, tone="quiet", section="snapshot")
    if not snapshot.assets:
        value = "unreadable" if snapshot.is_there else "gone"
        return Fact(label="Snapshot", value=value, note="see why", tone=snapshot.tone, section="snapshot")
    words = {"good": "verified now", "bad": "damaged", "warn": "unverifiable", "quiet": ""}
    return Fact(
        label="Snapshot",
        value=show_size(snapshot.size),
        note=words[snapshot.tone],
        tone=snapshot.tone,
        section="snapshot",
    )


def _proof(snapshot: Snapshot | None) -> Fact:
    if snapshot is None or not snapshot.assets:
        return Fact(label="Drill", value="none", note="nothing to rehearse", tone="quiet", section="snapshot")
    value = {"good": "passed", "bad": "failed", "warn": "never", "quiet": "none"}[snapshot.proof_tone]
    note = "restored in a scratch copy" if snapshot.proof_tone == "good" else "restorable is not proved"
    return Fact(label="Drill", value=value, note=note, tone=snapshot.proof_tone, section="snapshot")


def _health(manifest: Manifest) -> Fact:
    assert manifest.baseline is not None
    health = text(manifest.baseline.health, 40) or "unknown"
    latency = manifest.baseline.latency_ms
    note = "before the release" if latency is None else f"{latency} ms before the release"
    return Fact(label="Health", value=health, note=note, tone=tone_of(health), section="health")


def _events(audit: AuditTrail) -> str:
    count = len(audit.events) + audit.more
    return f"{count} event{'' if count == 1 else 's'} of this release"
