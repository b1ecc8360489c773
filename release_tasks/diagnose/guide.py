"""The decision guide of the runbook: one table, which decides here and is printed in the documentation.

Its order is that of urgency. Each row looks for one thing and says what it means and what to type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import field, frozen

from release_tasks.diagnose.signals import Signals
from release_tasks.records import Check

__all__ = ["GUIDE", "Diagnosis", "Finding", "Row", "decide", "guide_table"]

Severity = Literal["act", "note"]


@frozen
class Evidence:
    """That a row applies: what was seen, and the words that its commands are filled with."""

    detail: str
    words: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Row:
    """One line of the guide. ``commands`` may hold words in braces, which ``seen`` fills."""

    key: str
    severity: Severity
    symptom: str
    meaning: str
    commands: tuple[str, ...]
    seen: Callable[[Signals], Iterator[Evidence]]


@frozen(kw_only=True)
class Finding:
    """A row that applies now, with what was seen and the commands ready to be typed."""

    key: str
    severity: Severity
    meaning: str
    detail: str
    commands: list[str]


@frozen(kw_only=True)
class Diagnosis:
    """The verdict: ``healthy``, or ``act`` with the finding that comes first; notes never ask for an action."""

    status: Literal["healthy", "act"]
    findings: list[Finding]

    @property
    def first(self) -> Finding | None:
        """The most urgent thing to do."""
        return next((finding for finding in self.findings if finding.severity == "act"), None)


def decide(signals: Signals) -> Diagnosis:
    """Hold the signals against every row of the guide; the findings come in its order."""
    findings = [
        Finding(
            key=row.key,
            severity=row.severity,
            meaning=row.meaning,
            detail=evidence.detail,
            commands=[command.format(**evidence.words) for command in row.commands],
        )
        for row in GUIDE
        for evidence in row.seen(signals)
    ]
    is_healthy = all(finding.severity == "note" for finding in findings)
    return Diagnosis(status="healthy" if is_healthy else "act", findings=findings)


def guide_table() -> str:
    """Return the guide as a Markdown table."""
    lines = ["| what `inv release.diagnose` sees | what it means | what to type |", "| --- | --- | --- |"]
    for row in GUIDE:
        commands = ", then ".join(f"`{_with_placeholders(command)}`" for command in row.commands) or "nothing"
        lines.append(f"| {row.symptom} | {row.meaning} | {commands} |")
    return "\n".join(lines) + "\n"


def _with_placeholders(command: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda word: word[1].upper(), command)


def _is_unwell(signals: Signals) -> bool:
    return signals.health is not None and not signals.health.passed


def _interrupted(signals: Signals) -> Iterator[Evidence]:
    if signals.is_interrupted:
        yield Evidence("a rollback journal is there and nobody is at work")


def _locked(signals: Signals) -> Iterator[Evidence]:
    if signals.holder is not None:
        yield Evidence(f"{signals.holder}")


def _rollback_failed(signals: Signals) -> Iterator[Evidence]:
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and not signals.is_interrupted:
        snapshot = attempt.snapshot_id or (signals.snapshot.snapshot_id if signals.snapshot is not None else "ID")
        yield Evidence(attempt.detail, {"snapshot": snapshot})


def _restored_and_unwell(signals: Signals) -> Iterator[Evidence]:
    state = signals.state
    if _is_unwell(signals) and signals.is_restored and state is not None and state.status == "success":
        assert signals.health is not None
        yield Evidence(signals.health.detail, {"snapshot": str(state.restored_snapshot_id)})


def _unwell_after_release(signals: Signals) -> Iterator[Evidence]:
    if _is_unwell(signals) and signals.ready is not None and not signals.is_restored:
        assert signals.health is not None
        yield Evidence(f"release {signals.ready.release_id}: {signals.health.detail}")


def _unwell_before_any_release(signals: Signals) -> Iterator[Evidence]:
    if _is_unwell(signals) and signals.ready is None:
        assert signals.health is not None
        yield Evidence(signals.health.detail)


def _chain_broken(signals: Signals) -> Iterator[Evidence]:
    if signals.audit is not None and not signals.audit.intact:
        yield Evidence(str(signals.audit.problems[0]))


def _snapshot_damaged(signals: Signals) -> Iterator[Evidence]:
    verdict = signals.verdict
    if verdict is not None and verdict.status != "verified":
        what = str(verdict.findings[0]) if verdict.findings else "an older tool took it, and it has no digests"
        yield Evidence(f"{verdict.snapshot_id}: {what}")


def _drill_failed(signals: Signals) -> Iterator[Evidence]:
    if signals.proof is not None and signals.snapshot is not None and signals.proof.status == "failed":
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(f"{snapshot}, {signals.proof.at}: {signals.proof.detail}", {"snapshot": snapshot})


def _unproved(signals: Signals) -> Iterator[Evidence]:
    if signals.proof is None and signals.snapshot is not None:
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(snapshot, {"snapshot": snapshot})


def _unreadable(signals: Signals) -> Iterator[Evidence]:
    for name, sentence in signals.unread:
        if name != "pairing":
            yield Evidence(f"{name}: {sentence}")


def _failed_gates(signals: Signals, kind: Literal["command", "health", "other"]) -> Iterator[Evidence]:
    for check in signals.blocking:
        if _kind_of(signals, check) == kind:
            assert signals.newest is not None
            yield Evidence(f"release {signals.newest.release_id}, gate {check.id}: {check.detail}", {"gate": check.id})


def _kind_of(signals: Signals, check: Check) -> Literal["command", "health", "other"]:
    gate = signals.settings.release.gates.get(check.id)
    if gate is not None and gate.http == "health":
        return "health"
    return "command" if check.command is not None else "other"


def _blocked_otherwise(signals: Signals) -> Iterator[Evidence]:
    newest = signals.newest
    if newest is not None and newest.status == "blocked" and not signals.blocking:
        reason = newest.diagnostics[0] if newest.diagnostics else "its manifest does not say why"
        yield Evidence(f"release {newest.release_id}: {reason}")


def _mcp_degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None else ():
        if part.startswith("mcpServers."):
            yield Evidence(part.removeprefix("mcpServers."))


def _degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None and signals.health.passed else ():
        if not part.startswith("mcpServers."):
            yield Evidence(part)


def _under_pressure(signals: Signals) -> Iterator[Evidence]:
    for count in signals.reliability.over if signals.reliability is not None else ():
        yield Evidence(count)


def _pressure_unknown(signals: Signals) -> Iterator[Evidence]:
    report = signals.reliability
    if report is not None and report.status in ("unknown", "unreachable"):
        yield Evidence(f"{report.url}: {report.detail}")


def _low_disk(signals: Signals) -> Iterator[Evidence]:
    for disk in signals.disks:
        if disk.free < disk.needed:
            yield Evidence(f"{disk.path}: {_mib(disk.free)} MiB free, a rollback may need {_mib(disk.needed)} MiB")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def _pairing_unusable(signals: Signals) -> Iterator[Evidence]:
    for name, sentence in signals.unread:
        if name == "pairing":
            yield Evidence(sentence)


def _no_release(signals: Signals) -> Iterator[Evidence]:
    if signals.newest is None and not signals.unread:
        yield Evidence(f"no manifest in {signals.settings.release.root}")


def _nobody_asked(signals: Signals) -> Iterator[Evidence]:
    if signals.health is None:
        yield Evidence("release.health.url is not set")


def _waiting(signals: Signals) -> Iterator[Evidence]:
    for channel, count in signals.pending.items():
        if count:
            yield Evidence(f"{count} on {channel}", {"channel": channel})


GUIDE: tuple[Row, ...] = (
    Row(
        key="interrupted",
        severity="act",
        symptom="a rollback journal, and nobody at work",
        meaning="A rollback was interrupted in mid-swap; the live state may be mixed. Do not start the service.",
        commands=("inv release.recover", "inv release.diagnose"),
        seen=_interrupted,
    ),
    Row(
        key="rollback-failed",
        severity="act",
        symptom="the last rollback failed",
        meaning="The last rollback failed. Repair what it names, then run it again.",
        commands=("inv release.rollback --snapshot {snapshot}",),
        seen=_rollback_failed,
    ),
    Row(
        key="restored-unhealthy",
        severity="act",
        symptom="a snapshot is restored, and health fails all the same",
        meaning="The state is as it should be and the service is not: another rollback would be a noop. "
        "Restart it; if it stays unwell, call whoever knows the service.",
        commands=("inv release.rollback --snapshot {snapshot} --restart-command CMD",),
        seen=_restored_and_unwell,
    ),
    Row(
        key="unhealthy",
        severity="act",
        symptom="health fails, and a release was prepared",
        meaning="The service is down or unwell after its release. Put the old code back, then its state.",
        commands=("inv release.rollback --plan", "inv release.rollback"),
        seen=_unwell_after_release,
    ),
    Row(
        key="unhealthy-unreleased",
        severity="act",
        symptom="health fails, and no release is there to go back to",
        meaning="The service is not ready. Start it, or find out why it is unwell, before any release.",
        commands=("inv gate.api-health",),
        seen=_unwell_before_any_release,
    ),
    Row(
        key="chain-broken",
        severity="act",
        symptom="the audit chain is broken",
        meaning="The audit log was altered or cut. Keep a copy and find out who; rollbacks work all the same.",
        commands=("inv release.audit",),
        seen=_chain_broken,
    ),
    Row(
        key="snapshot-unrestorable",
        severity="act",
        symptom="the newest release snapshot is damaged, or cannot be verified",
        meaning="The newest snapshot cannot be trusted. Choose another to go back to, and prepare a new one.",
        commands=("inv release.verify", "inv release.prepare"),
        seen=_snapshot_damaged,
    ),
    Row(
        key="drill-failed",
        severity="act",
        symptom="the last drill of the newest release snapshot failed",
        meaning="The newest snapshot was rehearsed, and it did not come back as it should. Find out why before you "
        "need it.",
        commands=("inv release.drill --snapshot {snapshot}", "inv release.prepare"),
        seen=_drill_failed,
    ),
    Row(
        key="unreadable",
        severity="act",
        symptom="a manifest, snapshot, the rollback state, a log or a disk cannot be read",
        meaning="A record of the pipeline cannot be read, so what it would say is not known.",
        commands=("inv release.verify",),
        seen=_unreadable,
    ),
    Row(
        key="mcp-degraded",
        severity="act",
        symptom="an MCP server in error, or its circuit open",
        meaning="The service runs without one of its MCP servers. Mend that server; the state is not at fault.",
        commands=("inv gate.run mcp-config",),
        seen=_mcp_degraded,
    ),
    Row(
        key="degraded",
        severity="act",
        symptom="health is degraded",
        meaning="The service answers, and a part of it is not well. Mend that part.",
        commands=("inv gate.api-health --strict",),
        seen=_degraded,
    ),
    Row(
        key="pressure",
        severity="act",
        symptom="a queue or callback count over its limit",
        meaning="More waits, fails or is rejected than should. Find out what does not keep up before anything else.",
        commands=("inv release.watch --for 5m",),
        seen=_under_pressure,
    ),
    Row(
        key="pressure-unknown",
        severity="act",
        symptom="the reliability endpoint gives no counts",
        meaning="Whether messages pile up is not known. Check its URL and secret in release.reliability.",
        commands=("inv release.diagnose",),
        seen=_pressure_unknown,
    ),
    Row(
        key="build-or-tests-failed",
        severity="act",
        symptom="a command gate of the newest release failed (build, tests)",
        meaning="The release is blocked. Stop, and fix it; nothing live was changed.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: _failed_gates(signals, "command"),
    ),
    Row(
        key="not-ready",
        severity="act",
        symptom="the health gate of the newest release failed",
        meaning="The service was not healthy before the release. Find out why before you release anything.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: _failed_gates(signals, "health"),
    ),
    Row(
        key="gate-failed",
        severity="act",
        symptom="another gate of the newest release failed",
        meaning="The release is blocked by a gate. Mend what it names.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: _failed_gates(signals, "other"),
    ),
    Row(
        key="blocked",
        severity="act",
        symptom="the newest release is blocked, and no gate failed",
        meaning="The gates passed and the release is blocked all the same.",
        commands=("inv release.prepare",),
        seen=_blocked_otherwise,
    ),
    Row(
        key="low-disk",
        severity="act",
        symptom="less room on a disk than a rollback may need",
        meaning="A rollback may not find room for its copies. Make room now; it would be refused, not half done.",
        commands=("inv release.status",),
        seen=_low_disk,
    ),
    Row(
        key="pairing-unusable",
        severity="act",
        symptom="a pairing store cannot be read",
        meaning="Nobody is admitted by a store that cannot be read. Mend it, or move it away to begin an empty one.",
        commands=("inv pairing.list telegram", "inv pairing.list whatsapp"),
        seen=_pairing_unusable,
    ),
    Row(
        key="locked",
        severity="note",
        symptom="another run holds the lock",
        meaning="Another run is at work; what is shown may change under it.",
        commands=(),
        seen=_locked,
    ),
    Row(
        key="unproved",
        severity="note",
        symptom="the newest release snapshot was never rehearsed",
        meaning="Its bytes are as recorded; nobody has seen it come back yet.",
        commands=("inv release.drill --snapshot {snapshot}",),
        seen=_unproved,
    ),
    Row(
        key="no-release",
        severity="note",
        symptom="no release was prepared yet",
        meaning="There is nothing to go back to yet.",
        commands=("inv release.prepare",),
        seen=_no_release,
    ),
    Row(
        key="nobody-asked",
        severity="note",
        symptom="no health endpoint is configured",
        meaning="Nobody can say whether the service is well.",
        commands=(),
        seen=_nobody_asked,
    ),
    Row(
        key="pairing-waiting",
        severity="note",
        symptom="senders wait for approval",
        meaning="Somebody who wrote to the service waits for an operator.",
        commands=("inv pairing.list {channel}",),
        seen=_waiting,
    ),
)
