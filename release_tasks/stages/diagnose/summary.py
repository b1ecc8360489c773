"""The summary of the signals: one state word and one line of detail for each."""

from __future__ import annotations

from release_tasks.core.records import ReliabilityReport
from release_tasks.stages.diagnose.signals import Signals

__all__ = ["summary"]


def summary(signals: Signals) -> list[tuple[str, str, str]]:
    """Return name, state and detail of each signal, in the order of reading."""
    unread = dict(reversed(signals.unread))
    rows = {
        "health": _health(signals),
        "reliability": _reliability(signals.reliability),
        "manifests": _manifests(signals),
        "snapshots": _snapshots(signals),
        "rollback": _rollback(signals),
        "audit": _audit(signals),
        "pairing": _pairing(signals, unread),
        "disk": _disk(signals),
        "lock": ("held", str(signals.holder)) if signals.holder is not None else ("free", "no command is running"),
    }
    return [
        (name, "unreadable", unread[name]) if state == "none" and name in unread else (name, state, detail)
        for name, (state, detail) in rows.items()
    ]


def _health(signals: Signals) -> tuple[str, str]:
    report, rate = signals.health, signals.health_rate
    if report is None or rate is None:
        return "none", "neither release.health.url nor an http gate with a URL is set"
    before = signals.baseline.latency_ms if signals.baseline is not None else None
    compared = f" ({before} ms at prepare)" if before is not None and rate.latency_ms is not None else ""
    return "flapping" if rate.is_flapping else report.status, f"{report.detail}; {rate}{compared}"


def _reliability(report: ReliabilityReport | None) -> tuple[str, str]:
    return ("none", "release.reliability.url is not set") if report is None else (report.status, report.detail)


def _manifests(signals: Signals) -> tuple[str, str]:
    latest = signals.latest
    if latest is None:
        return "none", "no release was prepared yet"
    version = latest.app_version or "unknown version"
    return latest.status, f"{latest.release_id} ({latest.app_name} {version}), {latest.generated_at}"


def _snapshots(signals: Signals) -> tuple[str, str]:
    if signals.snapshot is None or signals.verdict is None:
        return "none", "no release snapshot yet"
    snapshot, drill, findings = signals.snapshot, signals.restore_test, signals.verdict.findings
    drilled = "never drilled" if drill is None else f"drill {drill.status} {drill.at}"
    detail = f"{snapshot.snapshot_id}, taken {snapshot.created_at}, {drilled}"
    return signals.verdict.status, f"{detail}: {findings[0]}" if findings else detail


def _rollback(signals: Signals) -> tuple[str, str]:
    state = signals.state
    if signals.is_interrupted:
        return "interrupted", "it started and did not finish, and no command is running"
    if state is None:
        return "none", "no rollback yet"
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
    return "waiting" if waiting else "ok", ", ".join(waiting) or "no sender waits"


def _disk(signals: Signals) -> tuple[str, str]:
    if not signals.disks:
        return "none", "unknown until the first snapshot"
    short = [problem for disk in signals.disks for problem in disk.problems]
    if short:
        return "low", short[0]
    limited = [(disk.free_size, disk) for disk in signals.disks if disk.free_size is not None]
    if not limited:
        return "ok", "no disk has a limit"
    free, tightest = min(limited, key=lambda pair: pair[0] - pair[1].needed.size)
    detail = f"{tightest.path}: {free / 2**30:.1f} GiB free, a rollback needs {tightest.needed.size / 2**30:.1f} GiB"
    return "ok", detail
