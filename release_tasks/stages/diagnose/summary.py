"""Each signal in one word and one line."""

from __future__ import annotations

from release_tasks.stages.diagnose.signals import Signals

__all__ = ["summary"]

Line = tuple[str, str, str]


def summary(signals: Signals) -> list[Line]:
    """Return name, state and detail of each signal, in the order in which they are read."""
    unread = dict(reversed(signals.unread))
    lines = [
        _health(signals), _reliability(signals), _release(signals), _snapshot(signals), _rollback(signals),
        _audit(signals), _pairing(signals), _disk(signals), _lock(signals),
    ]  # fmt: skip
    return [
        (name, "unreadable", unread[name]) if state == "none" and name in unread else (name, state, detail)
        for name, state, detail in lines
    ]


def _health(signals: Signals) -> Line:
    if signals.health is None:
        return "health", "none", "release.health.url is not set"
    return "health", signals.health.status, signals.health.detail


def _reliability(signals: Signals) -> Line:
    if signals.reliability is None:
        return "reliability", "none", "release.reliability.url is not set"
    return "reliability", signals.reliability.status, signals.reliability.detail


def _release(signals: Signals) -> Line:
    newest = signals.newest
    if newest is None:
        return "manifests", "none", "no release was prepared yet"
    version = newest.app_version or "unknown version"
    return "manifests", newest.status, f"{newest.release_id} ({newest.app_name} {version}), {newest.generated_at}"


def _snapshot(signals: Signals) -> Line:
    if signals.snapshot is None or signals.verdict is None:
        return "snapshots", "none", "no release snapshot to go back to"
    snapshot, found = signals.snapshot, signals.verdict.findings
    proof = signals.proof
    how = "never drilled" if proof is None else f"drill {proof.status} {proof.at}"
    told = f"{snapshot.snapshot_id}, taken {snapshot.created_at}, {how}"
    return "snapshots", signals.verdict.status, f"{told}: {found[0]}" if found else told


def _rollback(signals: Signals) -> Line:
    state = signals.state
    if signals.is_interrupted:
        return "rollback", "interrupted", "it began, it is not done, and nobody is at work"
    if state is None:
        return "rollback", "none", "no rollback so far"
    return "rollback", state.status, f"to {state.snapshot_id}, {state.updated_at}: {state.detail}"


def _audit(signals: Signals) -> Line:
    if signals.audit is None:
        return "audit", "none", "the log was not read"
    if not signals.audit.intact:
        return "audit", "broken", str(signals.audit.problems[0])
    return "audit", "intact", f"{len(signals.audit.events)} events"


def _pairing(signals: Signals) -> Line:
    broken = next((sentence for name, sentence in signals.unread if name == "pairing"), None)
    if broken is not None:
        return "pairing", "unreadable", broken
    waiting = {channel: count for channel, count in signals.pending.items() if count}
    told = ", ".join(f"{count} on {channel}" for channel, count in waiting.items())
    return "pairing", "waiting" if waiting else "ok", told or "nobody waits"


def _disk(signals: Signals) -> Line:
    if not signals.disks:
        return "disk", "none", "what a rollback needs is known once a snapshot is there"
    tightest = min(signals.disks, key=lambda disk: disk.free - disk.needed)
    told = f"{tightest.path}: {tightest.free / 2**30:.1f} GiB free, a rollback needs {tightest.needed / 2**30:.1f} GiB"
    return "disk", "ok" if tightest.free >= tightest.needed else "low", told


def _lock(signals: Signals) -> Line:
    return (
        ("lock", "held", str(signals.holder)) if signals.holder is not None else ("lock", "free", "nobody is at work")
    )
