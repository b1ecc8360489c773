"""Each signal in one word and one line."""

from __future__ import annotations

from release_tasks.core.records import HealthReport, ReliabilityReport
from release_tasks.stages.diagnose.signals import Signals

__all__ = ["summary"]


def summary(signals: Signals) -> list[tuple[str, str, str]]:
    """Return name, state and detail of each signal, in the order in which they are read."""
    unread = dict(reversed(signals.unread))
    rows = {
        "health": _answer(signals.health, "release.health.url"),
        "reliability": _answer(signals.reliability, "release.reliability.url"),
        "manifests": _manifests(signals),
        "snapshots": _snapshots(signals),
        "rollback": _rollback(signals),
        "audit": _audit(signals),
        "pairing": _pairing(signals, unread),
        "disk": _disk(signals),
        "lock": ("held", str(signals.holder)) if signals.holder is not None else ("free", "nobody is at work"),
    }
    return [
        (name, "unreadable", unread[name]) if state == "none" and name in unread else (name, state, detail)
        for name, (state, detail) in rows.items()
    ]


def _answer(report: HealthReport | ReliabilityReport | None, key: str) -> tuple[str, str]:
    return ("none", f"{key} is not set") if report is None else (report.status, report.detail)


def _manifests(signals: Signals) -> tuple[str, str]:
    newest = signals.newest
    if newest is None:
        return "none", "no release was prepared yet"
    version = newest.app_version or "unknown version"
    return newest.status, f"{newest.release_id} ({newest.app_name} {version}), {newest.generated_at}"


def _snapshots(signals: Signals) -> tuple[str, str]:
    if signals.snapshot is None or signals.verdict is None:
        return "none", "no release snapshot to go back to"
    snapshot, proof, found = signals.snapshot, signals.proof, signals.verdict.findings
    how = "never drilled" if proof is None else f"drill {proof.status} {proof.at}"
    told = f"{snapshot.snapshot_id}, taken {snapshot.created_at}, {how}"
    return signals.verdict.status, f"{told}: {found[0]}" if found else told


def _rollback(signals: Signals) -> tuple[str, str]:
    state = signals.state
    if signals.is_interrupted:
        return "interrupted", "it began, it is not done, and nobody is at work"
    if state is None:
        return "none", "no rollback so far"
    return state.status, f"to {state.snapshot_id}, {state.updated_at}: {state.detail}"


def _audit(signals: Signals) -> tuple[str, str]:
    if signals.audit is None:
        return "none", "the log was not read"
    if not signals.audit.intact:
        return "broken", str(signals.audit.problems[0])
    return "intact", f"{len(signals.audit.events)} events"


def _pairing(signals: Signals, unread: dict[str, str]) -> tuple[str, str]:
    if "pairing" in unread:
        return "unreadable", unread["pairing"]
    waiting = [f"{count} on {channel}" for channel, count in signals.pending.items() if count]
    return "waiting" if waiting else "ok", ", ".join(waiting) or "nobody waits"


def _disk(signals: Signals) -> tuple[str, str]:
    if not signals.disks:
        return "none", "what a rollback needs is known once a snapshot is there"
    tightest = min(signals.disks, key=lambda disk: disk.free - disk.needed)
    told = f"{tightest.path}: {tightest.free / 2**30:.1f} GiB free, a rollback needs {tightest.needed / 2**30:.1f} GiB"
    return "ok" if tightest.free >= tightest.needed else "low", told
