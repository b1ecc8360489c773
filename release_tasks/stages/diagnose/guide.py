"""The decision guide of the runbook: one table, which decides here and is printed in the documentation.

Its order is that of urgency. Each row is one function, named as its key, which yields what it has seen and nothing when
the row does not apply; above it stands what that means and what to type.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.records import HealthReport
from release_tasks.stages.diagnose.signals import Signals, read_signals
from release_tasks.stages.preflight.gates.http import HttpOptions

__all__ = ["GUIDE", "Diagnosis", "GuideFinding", "Row", "decide", "diagnose_service", "guide_table"]

Severity = Literal["act", "note"]
Seen = Callable[[Signals], Iterator["Evidence"]]


@frozen
class Evidence:
    """That a row applies: what was seen, and the words that its commands are filled with."""

    detail: str
    words: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Row:
    """One line of the guide. ``commands`` may hold words in braces, which the evidence fills."""

    key: str
    severity: Severity
    symptom: str
    meaning: str
    commands: tuple[str, ...]
    seen: Seen


GUIDE: list[Row] = []


@frozen(kw_only=True)
class GuideFinding:
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
    findings: list[GuideFinding]

    @property
    def first(self) -> GuideFinding | None:
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
        GuideFinding(
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
        commands = ", then ".join(f"`{command}`" for command in row.commands) or "nothing"
        commands = re.sub(r"\{(\w+)\}", lambda word: word[1].upper(), commands)
        lines.append(f"| {row.symptom} | {row.meaning} | {commands} |")
    return "\n".join(lines) + "\n"


def _row(severity: Severity, symptom: str, meaning: str, commands: tuple[str, ...] = ()) -> Callable[[Seen], Seen]:
    """Add a row to the guide: the function below is what it looks for, and its name is the key."""

    def add(seen: Seen) -> Seen:
        key = seen.__name__.strip("_").replace("_", "-")
        GUIDE.append(Row(key=key, severity=severity, symptom=symptom, meaning=meaning, commands=commands, seen=seen))
        return seen

    return add


_act = functools.partial(_row, "act")
_note = functools.partial(_row, "note")


def _failed_health(signals: Signals) -> HealthReport | None:
    return signals.health if signals.health is not None and not signals.health.passed else None


def _failed_gates(signals: Signals, kind: Literal["command", "health", "other"]) -> Iterator[Evidence]:
    """Each failed gate of one kind that blocks the newest release."""
    for check in signals.blocking:
        options = getattr(signals.settings.release.gates.get(check.id), "options", None)
        if isinstance(options, HttpOptions) and options.asks_health:
            found = "health"
        else:
            found = "command" if check.command is not None else "other"
        if found == kind:
            assert signals.newest is not None
            yield Evidence(f"release {signals.newest.release_id}, gate {check.id}: {check.detail}", {"gate": check.id})


@_act(
    symptom="a rollback that began, and nobody at work",
    meaning="A rollback was interrupted; until it is completed the state may be mixed. Do not start the service.",
    commands=("inv release.recover", "inv release.diagnose"),
)
def _interrupted(signals: Signals) -> Iterator[Evidence]:
    if signals.is_interrupted and signals.has_journal:
        yield Evidence("a rollback journal is there and nobody is at work")
    elif signals.is_interrupted and signals.state is not None:
        where = "its snapshot is live" if signals.state.restored else "nothing live had been swapped"
        yield Evidence(f"the rollback to {signals.state.snapshot_id} ended before it was done; {where}")


@_act(
    symptom="a snapshot is restored, and health fails all the same",
    meaning="The state is as it should be and the service is not: another rollback would be a noop. "
    "Restart it; if it stays unwell, call whoever knows the service.",
    commands=("inv release.rollback --snapshot {snapshot} --restart-command CMD",),
)
def _restored_unhealthy(signals: Signals) -> Iterator[Evidence]:
    state = signals.state
    if (health := _failed_health(signals)) and signals.is_restored and state is not None:
        yield Evidence(health.detail, {"snapshot": str(state.restored_snapshot_id)})


@_act(
    symptom="the last rollback failed with its snapshot live",
    meaning="The last rollback failed, and its snapshot is live. Repair what it names, then run it again.",
    commands=("inv release.rollback --snapshot {snapshot}",),
)
def _rollback_failed(signals: Signals) -> Iterator[Evidence]:
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and not attempt.is_given_up and not signals.is_interrupted:
        snapshot = attempt.snapshot_id or (signals.snapshot.snapshot_id if signals.snapshot is not None else "ID")
        yield Evidence(attempt.detail, {"snapshot": snapshot})


@_act(
    symptom="the last rollback was given up before it changed anything, or was taken back",
    meaning="The last rollback did not happen; the state is as it was before it. Repair what it names, or choose "
    "another snapshot.",
    commands=("inv release.verify", "inv release.rollback --plan"),
)
def _rollback_given_up(signals: Signals) -> Iterator[Evidence]:
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and attempt.is_given_up and not signals.is_interrupted:
        yield Evidence(attempt.detail)


@_act(
    symptom="health fails, and a release was prepared",
    meaning="The service is down or unwell after its release. Put the old code back, then its state.",
    commands=("inv release.rollback --plan", "inv release.rollback"),
)
def _unhealthy(signals: Signals) -> Iterator[Evidence]:
    if (health := _failed_health(signals)) and signals.ready is not None and not signals.is_restored:
        yield Evidence(f"release {signals.ready.release_id}: {health.detail}")


@_act(
    symptom="health fails, and no release is there to go back to",
    meaning="The service is not ready. Start it, or find out why it is unwell, before any release.",
    commands=("inv gate.api-health",),
)
def _unhealthy_unreleased(signals: Signals) -> Iterator[Evidence]:
    if (health := _failed_health(signals)) and signals.ready is None:
        yield Evidence(health.detail)


@_act(
    symptom="the audit chain is broken",
    meaning="The audit log was altered or cut. Keep a copy and find out who; rollbacks work all the same.",
    commands=("inv release.audit",),
)
def _chain_broken(signals: Signals) -> Iterator[Evidence]:
    if signals.audit is not None and not signals.audit.intact:
        yield Evidence(str(signals.audit.problems[0]))


@_act(
    symptom="the newest release snapshot is damaged, or cannot be verified",
    meaning="The newest snapshot cannot be trusted. Choose another to go back to, and prepare a new one.",
    commands=("inv release.verify", "inv release.prepare"),
)
def _snapshot_unrestorable(signals: Signals) -> Iterator[Evidence]:
    verdict = signals.verdict
    if verdict is not None and verdict.status != "verified":
        what = str(verdict.findings[0]) if verdict.findings else "an older tool took it, and it has no digests"
        yield Evidence(f"{verdict.snapshot_id}: {what}")


@_act(
    symptom="the last drill of the newest release snapshot failed",
    meaning="The newest snapshot was rehearsed, and it did not come back as it should. Find out why before you "
    "need it.",
    commands=("inv release.drill --snapshot {snapshot}", "inv release.prepare"),
)
def _drill_failed(signals: Signals) -> Iterator[Evidence]:
    if signals.proof is not None and signals.snapshot is not None and signals.proof.status == "failed":
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(f"{snapshot}, {signals.proof.at}: {signals.proof.detail}", {"snapshot": snapshot})


@_act(
    symptom="a manifest, snapshot, the rollback state, a log or a disk cannot be read",
    meaning="A record of the pipeline cannot be read, so what it would say is not known.",
    commands=("inv release.verify",),
)
def _unreadable(signals: Signals) -> Iterator[Evidence]:
    for name, sentence in signals.unread:
        if name != "pairing":
            yield Evidence(f"{name}: {sentence}")


@_act(
    symptom="an MCP server in error, or its circuit open",
    meaning="The service runs without one of its MCP servers. Mend that server; if a release changed its "
    "configuration, see whether a rollback would bring it back.",
    commands=("inv gate.run mcp-config", "inv release.rollback --plan"),
)
def _mcp_degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None else ():
        if part.startswith("mcpServers."):
            yield Evidence(part.removeprefix("mcpServers."))


@_act(
    symptom="health is degraded",
    meaning="The service answers, and a part of it is not well. Mend that part; if a release changed it, see "
    "whether a rollback would bring it back.",
    commands=("inv gate.api-health --strict", "inv release.rollback --plan"),
)
def _degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None and signals.health.passed else ():
        if not part.startswith("mcpServers."):
            yield Evidence(part)


@_act(
    symptom="a queue or callback count over its limit",
    meaning="More waits, fails or is rejected than should. Find out what does not keep up before anything else.",
    commands=("inv release.watch --for 5m",),
)
def _pressure(signals: Signals) -> Iterator[Evidence]:
    for count in signals.reliability.over if signals.reliability is not None else ():
        yield Evidence(count)


@_act(
    symptom="the reliability endpoint gives no counts",
    meaning="Whether messages pile up is not known. Check its URL and secret in release.reliability.",
    commands=("inv release.diagnose",),
)
def _pressure_unknown(signals: Signals) -> Iterator[Evidence]:
    report = signals.reliability
    is_down = signals.health is not None and signals.health.status == "unreachable"
    if report is not None and report.status in ("unknown", "unreachable") and not is_down:
        yield Evidence(f"{report.url}: {report.detail}")


@_act(
    symptom="a command gate of the newest release failed (build, tests)",
    meaning="The release is blocked. Stop, and fix it; nothing live was changed.",
    commands=("inv gate.run {gate}", "inv release.prepare"),
)
def _build_or_tests_failed(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "command")


@_act(
    symptom="the health gate of the newest release failed",
    meaning="The service was not healthy before the release. Find out why before you release anything.",
    commands=("inv gate.run {gate}", "inv release.prepare"),
)
def _not_ready(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "health")


@_act(
    symptom="another gate of the newest release failed",
    meaning="The release is blocked by a gate. Mend what it names.",
    commands=("inv gate.run {gate}", "inv release.prepare"),
)
def _gate_failed(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "other")


@_act(
    symptom="the newest release is blocked, and no gate failed",
    meaning="The gates passed and the release is blocked all the same.",
    commands=("inv release.prepare",),
)
def _blocked(signals: Signals) -> Iterator[Evidence]:
    newest = signals.newest
    if newest is not None and newest.status == "blocked" and not signals.blocking:
        reason = newest.diagnostics[0] if newest.diagnostics else "its manifest does not say why"
        yield Evidence(f"release {newest.release_id}: {reason}")


@_act(
    symptom="less room on a disk than a rollback may need",
    meaning="A rollback may not find room for its copies. Make room now; it would be refused, not half done.",
    commands=("inv release.status",),
)
def _low_disk(signals: Signals) -> Iterator[Evidence]:
    for disk in signals.disks:
        if disk.free < disk.needed:
            free, needed = (f"{size / 2**20:,.0f} MiB" for size in (disk.free, disk.needed))
            yield Evidence(f"{disk.path}: {free} free, a rollback may need {needed}")


@_act(
    symptom="a pairing store cannot be read",
    meaning="Nobody is admitted by a store that cannot be read. Mend it, or move it away to begin an empty one.",
    commands=("inv pairing.list telegram", "inv pairing.list whatsapp"),
)
def _pairing_unusable(signals: Signals) -> Iterator[Evidence]:
    for name, sentence in signals.unread:
        if name == "pairing":
            yield Evidence(sentence)


@_act(
    symptom="the chain of the pairing log is broken",
    meaning="The log of who admitted whom was altered or cut. Keep a copy, find out who, and look through who is "
    "approved.",
    commands=("inv pairing.audit", "inv pairing.list telegram --approved", "inv pairing.list whatsapp --approved"),
)
def _pairing_chain_broken(signals: Signals) -> Iterator[Evidence]:
    if signals.pairing_audit is not None and not signals.pairing_audit.intact:
        yield Evidence(str(signals.pairing_audit.problems[0]))


@_note(
    symptom="another run holds the lock",
    meaning="Another run is at work; what is shown may change under it.",
)
def _locked(signals: Signals) -> Iterator[Evidence]:
    if signals.holder is not None:
        yield Evidence(f"{signals.holder}")


@_note(
    symptom="the newest release snapshot was never rehearsed",
    meaning="Its bytes are as recorded; nobody has seen it come back yet.",
    commands=("inv release.drill --snapshot {snapshot}",),
)
def _unproved(signals: Signals) -> Iterator[Evidence]:
    is_sound = signals.verdict is not None and signals.verdict.status == "verified"
    if signals.proof is None and signals.snapshot is not None and is_sound:
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(snapshot, {"snapshot": snapshot})


@_note(
    symptom="no release was prepared yet",
    meaning="There is nothing to go back to yet.",
    commands=("inv release.prepare",),
)
def _no_release(signals: Signals) -> Iterator[Evidence]:
    if signals.newest is None and not signals.unread:
        yield Evidence(f"no manifest in {signals.settings.release.root}")


@_note(
    symptom="no health endpoint is configured",
    meaning="Nobody can say whether the service is well.",
)
def _nobody_asked(signals: Signals) -> Iterator[Evidence]:
    if signals.health is None:
        yield Evidence("release.health.url is not set")


@_note(
    symptom="the last notice for a receiver was not delivered",
    meaning="Somebody who should have been told was not. Tell them, and mend what it names.",
    commands=("inv release.audit",),
)
def _notice_failed(signals: Signals) -> Iterator[Evidence]:
    if signals.audit is None or not signals.audit.intact:
        return
    told = {str(e.get("notice")): e for e in signals.audit.events if e["event"] in ("notice.sent", "notice.failed")}
    for name in signals.settings.release.notices:
        last = told.get(name)
        if last is not None and last["event"] == "notice.failed":
            yield Evidence(f"{name}, at {last['time']}: {last.get('detail')}")


@_note(
    symptom="senders wait for approval",
    meaning="Somebody who wrote to the service waits for an operator.",
    commands=("inv pairing.list {channel}",),
)
def _pairing_waiting(signals: Signals) -> Iterator[Evidence]:
    for channel, count in signals.pending.items():
        if count:
            yield Evidence(f"{count} on {channel}", {"channel": channel})
