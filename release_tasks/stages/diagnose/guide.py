"""The decision guide of the runbook: one table, which decides here and is printed in the documentation.

Its order is that of urgency. Each row looks for one thing and says what it means and what to type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.stages.diagnose import symptoms
from release_tasks.stages.diagnose.signals import Signals, read_signals

__all__ = ["GUIDE", "Diagnosis", "Finding", "Row", "decide", "diagnose_service", "guide_table"]

Severity = Literal["act", "note"]


@frozen(kw_only=True)
class Row:
    """One line of the guide. ``commands`` may hold words in braces, which ``seen`` fills."""

    key: str
    severity: Severity
    symptom: str
    meaning: str
    commands: tuple[str, ...]
    seen: Callable[[Signals], Iterator[symptoms.Evidence]]


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


def diagnose_service(settings: Settings) -> tuple[Signals, Diagnosis]:
    """Read every signal and decide what to do; nothing is changed, and nothing raised of what cannot be read.

    ``status`` of the diagnosis is ``healthy``, or ``act``, with the findings in their order and the commands to type.
    """
    signals = read_signals(settings, Pipeline(settings.release.root))
    return signals, decide(signals)


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


GUIDE: tuple[Row, ...] = (
    Row(
        key="interrupted",
        severity="act",
        symptom="a rollback that began, and nobody at work",
        meaning="A rollback was interrupted; until it is completed the state may be mixed. Do not start the service.",
        commands=("inv release.recover", "inv release.diagnose"),
        seen=symptoms.interrupted,
    ),
    Row(
        key="restored-unhealthy",
        severity="act",
        symptom="a snapshot is restored, and health fails all the same",
        meaning="The state is as it should be and the service is not: another rollback would be a noop. "
        "Restart it; if it stays unwell, call whoever knows the service.",
        commands=("inv release.rollback --snapshot {snapshot} --restart-command CMD",),
        seen=symptoms.restored_and_unwell,
    ),
    Row(
        key="rollback-failed",
        severity="act",
        symptom="the last rollback failed with its snapshot live",
        meaning="The last rollback failed, and its snapshot is live. Repair what it names, then run it again.",
        commands=("inv release.rollback --snapshot {snapshot}",),
        seen=symptoms.rollback_failed,
    ),
    Row(
        key="rollback-given-up",
        severity="act",
        symptom="the last rollback was given up before it changed anything, or was taken back",
        meaning="The last rollback did not happen; the state is as it was before it. Repair what it names, or choose "
        "another snapshot.",
        commands=("inv release.verify", "inv release.rollback --plan"),
        seen=symptoms.rollback_given_up,
    ),
    Row(
        key="unhealthy",
        severity="act",
        symptom="health fails, and a release was prepared",
        meaning="The service is down or unwell after its release. Put the old code back, then its state.",
        commands=("inv release.rollback --plan", "inv release.rollback"),
        seen=symptoms.unwell_after_release,
    ),
    Row(
        key="unhealthy-unreleased",
        severity="act",
        symptom="health fails, and no release is there to go back to",
        meaning="The service is not ready. Start it, or find out why it is unwell, before any release.",
        commands=("inv gate.api-health",),
        seen=symptoms.unwell_before_any_release,
    ),
    Row(
        key="chain-broken",
        severity="act",
        symptom="the audit chain is broken",
        meaning="The audit log was altered or cut. Keep a copy and find out who; rollbacks work all the same.",
        commands=("inv release.audit",),
        seen=symptoms.chain_broken,
    ),
    Row(
        key="snapshot-unrestorable",
        severity="act",
        symptom="the newest release snapshot is damaged, or cannot be verified",
        meaning="The newest snapshot cannot be trusted. Choose another to go back to, and prepare a new one.",
        commands=("inv release.verify", "inv release.prepare"),
        seen=symptoms.snapshot_damaged,
    ),
    Row(
        key="drill-failed",
        severity="act",
        symptom="the last drill of the newest release snapshot failed",
        meaning="The newest snapshot was rehearsed, and it did not come back as it should. Find out why before you "
        "need it.",
        commands=("inv release.drill --snapshot {snapshot}", "inv release.prepare"),
        seen=symptoms.drill_failed,
    ),
    Row(
        key="unreadable",
        severity="act",
        symptom="a manifest, snapshot, the rollback state, a log or a disk cannot be read",
        meaning="A record of the pipeline cannot be read, so what it would say is not known.",
        commands=("inv release.verify",),
        seen=symptoms.unreadable,
    ),
    Row(
        key="mcp-degraded",
        severity="act",
        symptom="an MCP server in error, or its circuit open",
        meaning="The service runs without one of its MCP servers. Mend that server; if a release changed its "
        "configuration, see whether a rollback would bring it back.",
        commands=("inv gate.run mcp-config", "inv release.rollback --plan"),
        seen=symptoms.mcp_degraded,
    ),
    Row(
        key="degraded",
        severity="act",
        symptom="health is degraded",
        meaning="The service answers, and a part of it is not well. Mend that part; if a release changed it, see "
        "whether a rollback would bring it back.",
        commands=("inv gate.api-health --strict", "inv release.rollback --plan"),
        seen=symptoms.degraded,
    ),
    Row(
        key="pressure",
        severity="act",
        symptom="a queue or callback count over its limit",
        meaning="More waits, fails or is rejected than should. Find out what does not keep up before anything else.",
        commands=("inv release.watch --for 5m",),
        seen=symptoms.under_pressure,
    ),
    Row(
        key="pressure-unknown",
        severity="act",
        symptom="the reliability endpoint gives no counts",
        meaning="Whether messages pile up is not known. Check its URL and secret in release.reliability.",
        commands=("inv release.diagnose",),
        seen=symptoms.pressure_unknown,
    ),
    Row(
        key="build-or-tests-failed",
        severity="act",
        symptom="a command gate of the newest release failed (build, tests)",
        meaning="The release is blocked. Stop, and fix it; nothing live was changed.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: symptoms.failed_gates(signals, "command"),
    ),
    Row(
        key="not-ready",
        severity="act",
        symptom="the health gate of the newest release failed",
        meaning="The service was not healthy before the release. Find out why before you release anything.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: symptoms.failed_gates(signals, "health"),
    ),
    Row(
        key="gate-failed",
        severity="act",
        symptom="another gate of the newest release failed",
        meaning="The release is blocked by a gate. Mend what it names.",
        commands=("inv gate.run {gate}", "inv release.prepare"),
        seen=lambda signals: symptoms.failed_gates(signals, "other"),
    ),
    Row(
        key="blocked",
        severity="act",
        symptom="the newest release is blocked, and no gate failed",
        meaning="The gates passed and the release is blocked all the same.",
        commands=("inv release.prepare",),
        seen=symptoms.blocked_otherwise,
    ),
    Row(
        key="low-disk",
        severity="act",
        symptom="less room on a disk than a rollback may need",
        meaning="A rollback may not find room for its copies. Make room now; it would be refused, not half done.",
        commands=("inv release.status",),
        seen=symptoms.low_disk,
    ),
    Row(
        key="pairing-unusable",
        severity="act",
        symptom="a pairing store cannot be read",
        meaning="Nobody is admitted by a store that cannot be read. Mend it, or move it away to begin an empty one.",
        commands=("inv pairing.list telegram", "inv pairing.list whatsapp"),
        seen=symptoms.pairing_unusable,
    ),
    Row(
        key="pairing-chain-broken",
        severity="act",
        symptom="the chain of the pairing log is broken",
        meaning="The log of who admitted whom was altered or cut. Keep a copy, find out who, and look through who is "
        "approved.",
        commands=("inv pairing.audit", "inv pairing.list telegram --approved", "inv pairing.list whatsapp --approved"),
        seen=symptoms.pairing_chain_broken,
    ),
    Row(
        key="locked",
        severity="note",
        symptom="another run holds the lock",
        meaning="Another run is at work; what is shown may change under it.",
        commands=(),
        seen=symptoms.locked,
    ),
    Row(
        key="unproved",
        severity="note",
        symptom="the newest release snapshot was never rehearsed",
        meaning="Its bytes are as recorded; nobody has seen it come back yet.",
        commands=("inv release.drill --snapshot {snapshot}",),
        seen=symptoms.unproved,
    ),
    Row(
        key="no-release",
        severity="note",
        symptom="no release was prepared yet",
        meaning="There is nothing to go back to yet.",
        commands=("inv release.prepare",),
        seen=symptoms.no_release,
    ),
    Row(
        key="nobody-asked",
        severity="note",
        symptom="no health endpoint is configured",
        meaning="Nobody can say whether the service is well.",
        commands=(),
        seen=symptoms.nobody_asked,
    ),
    Row(
        key="notice-failed",
        severity="note",
        symptom="the last notice for a receiver was not delivered",
        meaning="Somebody who should have been told was not. Tell them, and mend what it names.",
        commands=("inv release.audit",),
        seen=symptoms.notice_failed,
    ),
    Row(
        key="pairing-waiting",
        severity="note",
        symptom="senders wait for approval",
        meaning="Somebody who wrote to the service waits for an operator.",
        commands=("inv pairing.list {channel}",),
        seen=symptoms.waiting,
    ),
)
