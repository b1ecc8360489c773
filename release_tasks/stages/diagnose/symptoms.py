"""What the rows of the decision guide look for: each yields what it has seen, nothing when its row does not apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen

from release_tasks.core.records import Check
from release_tasks.stages.diagnose.signals import Signals
from release_tasks.stages.preflight.gates.http import HttpOptions

__all__ = [
    "Evidence",
    "blocked_otherwise",
    "chain_broken",
    "degraded",
    "drill_failed",
    "failed_gates",
    "interrupted",
    "locked",
    "low_disk",
    "mcp_degraded",
    "no_release",
    "nobody_asked",
    "notice_failed",
    "pairing_chain_broken",
    "pairing_unusable",
    "pressure_unknown",
    "restored_and_unwell",
    "rollback_failed",
    "rollback_given_up",
    "snapshot_damaged",
    "under_pressure",
    "unproved",
    "unreadable",
    "unwell_after_release",
    "unwell_before_any_release",
    "waiting",
]


@frozen
class Evidence:
    """That a row applies: what was seen, and the words that its commands are filled with."""

    detail: str
    words: dict[str, str] = field(factory=dict)


def _is_unwell(signals: Signals) -> bool:
    return signals.health is not None and not signals.health.passed


def interrupted(signals: Signals) -> Iterator[Evidence]:
    """A rollback that began and that nobody is at work on."""
    if signals.is_interrupted and signals.has_journal:
        yield Evidence("a rollback journal is there and nobody is at work")
    elif signals.is_interrupted and signals.state is not None:
        where = "its snapshot is live" if signals.state.restored else "nothing live had been swapped"
        yield Evidence(f"the rollback to {signals.state.snapshot_id} ended before it was done; {where}")


def locked(signals: Signals) -> Iterator[Evidence]:
    """A run that holds the lock now."""
    if signals.holder is not None:
        yield Evidence(f"{signals.holder}")


def rollback_failed(signals: Signals) -> Iterator[Evidence]:
    """The last rollback, if its snapshot went live, it failed, and no release was prepared after it."""
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and not attempt.is_given_up and not signals.is_interrupted:
        snapshot = attempt.snapshot_id or (signals.snapshot.snapshot_id if signals.snapshot is not None else "ID")
        yield Evidence(attempt.detail, {"snapshot": snapshot})


def rollback_given_up(signals: Signals) -> Iterator[Evidence]:
    """The last rollback, if it was given up with nothing changed, and no release was prepared after it."""
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and attempt.is_given_up and not signals.is_interrupted:
        yield Evidence(attempt.detail)


def restored_and_unwell(signals: Signals) -> Iterator[Evidence]:
    """A service that is unwell on the very state that was restored."""
    state = signals.state
    if _is_unwell(signals) and signals.is_restored and state is not None:
        assert signals.health is not None
        yield Evidence(signals.health.detail, {"snapshot": str(state.restored_snapshot_id)})


def unwell_after_release(signals: Signals) -> Iterator[Evidence]:
    """A service that is unwell, with a release to go back from."""
    if _is_unwell(signals) and signals.ready is not None and not signals.is_restored:
        assert signals.health is not None
        yield Evidence(f"release {signals.ready.release_id}: {signals.health.detail}")


def unwell_before_any_release(signals: Signals) -> Iterator[Evidence]:
    """A service that is unwell, and was never released."""
    if _is_unwell(signals) and signals.ready is None:
        assert signals.health is not None
        yield Evidence(signals.health.detail)


def chain_broken(signals: Signals) -> Iterator[Evidence]:
    """The first thing that is wrong in the audit log."""
    if signals.audit is not None and not signals.audit.intact:
        yield Evidence(str(signals.audit.problems[0]))


def snapshot_damaged(signals: Signals) -> Iterator[Evidence]:
    """What differs in the newest release snapshot from what was recorded."""
    verdict = signals.verdict
    if verdict is not None and verdict.status != "verified":
        what = str(verdict.findings[0]) if verdict.findings else "an older tool took it, and it has no digests"
        yield Evidence(f"{verdict.snapshot_id}: {what}")


def drill_failed(signals: Signals) -> Iterator[Evidence]:
    """A rehearsal of the newest release snapshot that failed."""
    if signals.proof is not None and signals.snapshot is not None and signals.proof.status == "failed":
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(f"{snapshot}, {signals.proof.at}: {signals.proof.detail}", {"snapshot": snapshot})


def unproved(signals: Signals) -> Iterator[Evidence]:
    """A newest release snapshot that nobody has rehearsed."""
    is_sound = signals.verdict is not None and signals.verdict.status == "verified"
    if signals.proof is None and signals.snapshot is not None and is_sound:
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(snapshot, {"snapshot": snapshot})


def unreadable(signals: Signals) -> Iterator[Evidence]:
    """Each record of the pipeline that could not be read."""
    for name, sentence in signals.unread:
        if name != "pairing":
            yield Evidence(f"{name}: {sentence}")


def failed_gates(signals: Signals, kind: Literal["command", "health", "other"]) -> Iterator[Evidence]:
    """Each failed gate of one kind that blocks the newest release."""
    for check in signals.blocking:
        if _kind_of(signals, check) == kind:
            assert signals.newest is not None
            yield Evidence(f"release {signals.newest.release_id}, gate {check.id}: {check.detail}", {"gate": check.id})


def _kind_of(signals: Signals, check: Check) -> Literal["command", "health", "other"]:
    gate = signals.settings.release.gates.get(check.id)
    if gate is not None and isinstance(gate.options, HttpOptions) and gate.options.asks_health:
        return "health"
    return "command" if check.command is not None else "other"


def blocked_otherwise(signals: Signals) -> Iterator[Evidence]:
    """What blocks the newest release though no gate failed."""
    newest = signals.newest
    if newest is not None and newest.status == "blocked" and not signals.blocking:
        reason = newest.diagnostics[0] if newest.diagnostics else "its manifest does not say why"
        yield Evidence(f"release {newest.release_id}: {reason}")


def mcp_degraded(signals: Signals) -> Iterator[Evidence]:
    """Each MCP server that health names."""
    for part in signals.health.degraded if signals.health is not None else ():
        if part.startswith("mcpServers."):
            yield Evidence(part.removeprefix("mcpServers."))


def degraded(signals: Signals) -> Iterator[Evidence]:
    """Each other part that a healthy answer names as not well."""
    for part in signals.health.degraded if signals.health is not None and signals.health.passed else ():
        if not part.startswith("mcpServers."):
            yield Evidence(part)


def under_pressure(signals: Signals) -> Iterator[Evidence]:
    """Each count that is over its limit."""
    for count in signals.reliability.over if signals.reliability is not None else ():
        yield Evidence(count)


def pressure_unknown(signals: Signals) -> Iterator[Evidence]:
    """A reliability endpoint that gives no counts."""
    report = signals.reliability
    is_down = signals.health is not None and signals.health.status == "unreachable"
    if report is not None and report.status in ("unknown", "unreachable") and not is_down:
        yield Evidence(f"{report.url}: {report.detail}")


def low_disk(signals: Signals) -> Iterator[Evidence]:
    """Each filesystem with less room than a rollback may need."""
    for disk in signals.disks:
        if disk.free < disk.needed:
            yield Evidence(f"{disk.path}: {_mib(disk.free)} MiB free, a rollback may need {_mib(disk.needed)} MiB")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def pairing_chain_broken(signals: Signals) -> Iterator[Evidence]:
    """The first thing that is wrong in the log of pairing decisions."""
    if signals.pairing_audit is not None and not signals.pairing_audit.intact:
        yield Evidence(str(signals.pairing_audit.problems[0]))


def pairing_unusable(signals: Signals) -> Iterator[Evidence]:
    """Each pairing store that cannot be read."""
    for name, sentence in signals.unread:
        if name == "pairing":
            yield Evidence(sentence)


def no_release(signals: Signals) -> Iterator[Evidence]:
    """That nothing was prepared yet, where that can be told."""
    if signals.newest is None and not signals.unread:
        yield Evidence(f"no manifest in {signals.settings.release.root}")


def nobody_asked(signals: Signals) -> Iterator[Evidence]:
    """That no health endpoint is known."""
    if signals.health is None:
        yield Evidence("release.health.url is not set")


def notice_failed(signals: Signals) -> Iterator[Evidence]:
    """Each configured notice whose last delivery failed; what the log of a broken chain says is not believed."""
    if signals.audit is None or not signals.audit.intact:
        return
    told = {str(e.get("notice")): e for e in signals.audit.events if e["event"] in ("notice.sent", "notice.failed")}
    for name in signals.settings.release.notices:
        last = told.get(name)
        if last is not None and last["event"] == "notice.failed":
            yield Evidence(f"{name}, at {last['time']}: {last.get('detail')}")


def waiting(signals: Signals) -> Iterator[Evidence]:
    """Each channel on which senders wait."""
    for channel, count in signals.pending.items():
        if count:
            yield Evidence(f"{count} on {channel}", {"channel": channel})
