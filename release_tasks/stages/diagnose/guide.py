"""The decision guide: one table, used by ``release.diagnose`` and printed in docs/runbook.md.

Rows are ordered by urgency. Each row is a function, and its name is the key of the row. The function yields evidence
when the row applies; its decorator has the symptom, the meaning and the commands to type.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Container, Iterator
from typing import Literal

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.findings import Drift
from release_tasks.config.schema import Settings
from release_tasks.core.events import Emit, ignore, shielded
from release_tasks.core.records import HealthReport
from release_tasks.core.typed import typed
from release_tasks.stages.diagnose.signals import Signals, read_signals
from release_tasks.stages.preflight.gates.http import HttpOptions, health_gate
from release_tasks.stages.watch.comparison import compare_latency

__all__ = ["GUIDE", "Diagnosis", "GuideFinding", "Row", "decide", "diagnose_service", "guide_table"]

Severity = Literal["act", "note"]
Detector = Callable[[Signals], Iterator["Evidence"]]


@frozen
class Evidence:
    """The reason why a row applies, and the values for the placeholders in its commands."""

    detail: str
    values: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Row:
    """One row of the guide. ``commands`` are tasks of the suite with their flags.

    They may contain placeholders in braces; the evidence has their values. A command whose value is missing is left
    out: ``{health}`` and ``{mcp}`` are gates, which a project may not have.
    """

    key: str
    severity: Severity
    symptom: str
    meaning: str
    commands: tuple[str, ...]
    detect: Detector


GUIDE: list[Row] = []


@frozen(kw_only=True)
class GuideFinding:
    """A row that applies now, with its evidence and complete commands."""

    key: str
    severity: Severity
    meaning: str
    detail: str
    commands: list[str]


@frozen(kw_only=True)
class Diagnosis:
    """The verdict. ``status`` is ``act`` when at least one finding needs an action; notes need none."""

    status: Literal["healthy", "act"]
    findings: list[GuideFinding]

    @property
    def first(self) -> GuideFinding | None:
        """The most urgent finding that needs an action."""
        return next((finding for finding in self.findings if finding.severity == "act"), None)


def diagnose_service(settings: Settings, emit: Emit = ignore) -> tuple[Signals, Diagnosis]:
    """Read every signal and decide what to do; changes nothing. Emits its two longer steps: health and the
    check of the snapshot.

    Does not raise for a signal that cannot be read: the diagnosis has a finding for it.
    """
    signals = read_signals(settings, Pipeline(settings.release.root), shielded(emit))
    return signals, decide(signals)


def decide(signals: Signals) -> Diagnosis:
    """Check the signals against every row of the guide; the findings are in the order of the rows."""
    findings = [
        GuideFinding(
            key=row.key,
            severity=row.severity,
            meaning=row.meaning,
            detail=evidence.detail,
            commands=list(_typed_commands(row, evidence.values, signals.refused)),
        )
        for row in GUIDE
        for evidence in row.detect(signals)
    ]
    is_healthy = all(finding.severity == "note" for finding in findings)
    return Diagnosis(status="healthy" if is_healthy else "act", findings=findings)


def _typed_commands(row: Row, values: dict[str, str], refused: Container[str]) -> Iterator[str]:
    if values.get("snapshot") in refused:  # a rollback would refuse it
        yield typed("release.verify", "--snapshot", values["snapshot"])
        return
    for command in row.commands:
        with contextlib.suppress(KeyError):
            yield typed(*(word.format(**values) for word in command.split()))


def guide_table() -> str:
    """Return the guide as a Markdown table."""
    lines = ["| what `release.diagnose` finds | what it means | what to type |", "| --- | --- | --- |"]
    for row in GUIDE:
        commands = ", then ".join(f"`inv {command}`" for command in row.commands) or "nothing"
        commands = re.sub(r"\{(\w+)\}", lambda placeholder: placeholder[1].upper(), commands)
        lines.append(f"| {row.symptom} | {row.meaning} | {commands} |")
    return "\n".join(lines) + "\n"


def _row(
    severity: Severity, symptom: str, meaning: str, commands: tuple[str, ...] = ()
) -> Callable[[Detector], Detector]:
    """Return a decorator that adds a row to the guide; the name of the decorated function is the key of the row."""

    def add(detect: Detector) -> Detector:
        key = detect.__name__.strip("_").replace("_", "-")
        GUIDE.append(
            Row(key=key, severity=severity, symptom=symptom, meaning=meaning, commands=commands, detect=detect)
        )
        return detect

    return add


_act = functools.partial(_row, "act")
_note = functools.partial(_row, "note")


def _failed_health(signals: Signals) -> HealthReport | None:
    """Return the health when every sample of it failed; an unknown health is not a failed one."""
    health, rate = signals.health, signals.health_rate
    is_failed = rate is not None and rate.passed == 0 and not signals.is_before_first
    return health if is_failed and health is not None and health.status != "unknown" else None


def _failed_gates(signals: Signals, kind: Literal["command", "health", "other"]) -> Iterator[Evidence]:
    """Yield evidence for each failed gate of one kind that blocks the latest release."""
    for check in signals.blocking:
        options = getattr(signals.settings.release.gates.get(check.id), "options", None)
        if isinstance(options, HttpOptions) and options.asks_health:
            kind_of_check = "health"
        else:
            kind_of_check = "command" if check.command is not None else "other"
        if kind_of_check == kind:
            assert signals.latest is not None
            yield Evidence(f"release {signals.latest.release_id}, gate {check.id}: {check.detail}", {"gate": check.id})


def _gate_values(signals: Signals) -> dict[str, str]:
    """Return the names of the gates that check the health and the MCP servers, where the project has such gates."""
    gates = signals.settings.release.gates
    mcp = next((name for name, gate in gates.items() if gate.kind.name == "mcp"), None)
    found = {"health": health_gate(signals.settings), "mcp": mcp}
    return {key: name for key, name in found.items() if name is not None}


def _drifts(signals: Signals, choose: Callable[[Drift], list[str]]) -> Iterator[Evidence]:
    """Yield evidence for each asset with chosen differences from the snapshot that was restored last."""
    if (last := signals.last_restore) is not None:
        for key, drift in last.drifts.items():
            if found := choose(drift):
                yield Evidence(f"{key}: {'; '.join(found)}", {"snapshot": last.target.snapshot_id})


@_act(
    symptom="a rollback started and did not finish, and no command is running",
    meaning="A rollback was interrupted, and the state may be mixed. Do not start the service before recovery.",
    commands=("release.recover", "release.diagnose"),
)
def _interrupted(signals: Signals) -> Iterator[Evidence]:
    if signals.is_interrupted and signals.has_journal:
        yield Evidence("a rollback journal exists, and no command is running")
    elif signals.is_interrupted and signals.state is not None:
        where = "its snapshot is live" if signals.state.restored else "no live asset was changed"
        yield Evidence(f"the rollback to {signals.state.snapshot_id} was interrupted; {where}")


@_note(
    symptom="the state before the first deployment is restored",
    meaning="The first deployment was rolled back: there is no service and no state of it. Prepare the next attempt.",
    commands=("release.prepare --first",),
)
def _not_deployed(signals: Signals) -> Iterator[Evidence]:
    if signals.is_before_first and signals.state is not None:
        yield Evidence(f"{signals.state.restored_snapshot_id} is live")


@_act(
    symptom="a snapshot of a state without a verdict is restored, and health still fails",
    meaning="The restored state may be bad: it was taken after a release that was never judged. An earlier state is "
    "known. Look at what a rollback to it would change, then decide.",
    commands=("release.rollback --plan --snapshot {snapshot}", "release.rollback --snapshot {snapshot}"),
)
def _restored_unjudged(signals: Signals) -> Iterator[Evidence]:
    if (health := _failed_health(signals)) and signals.is_restored and (better := signals.better):
        yield Evidence(f"{health.detail}; {signals.verdicts.sentence}", {"snapshot": better.snapshot_id})


@_act(
    symptom="a snapshot is restored, and health still fails",
    meaning="State restored, but the service is still unhealthy. Another rollback does not change the state; the "
    "command below only restarts the service. If it stays unhealthy, call its developers.",
    commands=("release.rollback --snapshot {snapshot} --restart-command CMD",),
)
def _restored_unhealthy(signals: Signals) -> Iterator[Evidence]:
    state = signals.state
    if (health := _failed_health(signals)) and signals.is_restored and state is not None and signals.better is None:
        yield Evidence(health.detail, {"snapshot": str(state.restored_snapshot_id)})


@_act(
    symptom="a snapshot is restored, and the schema of a database was changed since",
    meaning="A release changed the database after the rollback, and no release was prepared. If the change is wrong, "
    "roll back again: the rows that are removed are in its safety snapshot.",
    commands=("release.rollback --snapshot {snapshot} --plan", "release.rollback --snapshot {snapshot}"),
)
def _schema_changed(signals: Signals) -> Iterator[Evidence]:
    return _drifts(signals, lambda drift: drift.schema)


@_act(
    symptom="a snapshot is restored, and an asset is missing or damaged since",
    meaning="State that the rollback restored was removed or damaged. Roll back again.",
    commands=("release.rollback --snapshot {snapshot} --plan", "release.rollback --snapshot {snapshot}"),
)
def _state_lost(signals: Signals) -> Iterator[Evidence]:
    return _drifts(signals, lambda drift: drift.form if drift.is_lost else [])


@_act(
    symptom="the last rollback failed, and its snapshot is live",
    meaning="The last rollback failed after it restored its snapshot. Fix the error, then run the rollback again.",
    commands=("release.rollback --snapshot {snapshot}",),
)
def _rollback_failed(signals: Signals) -> Iterator[Evidence]:
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and not attempt.had_no_effect and not signals.is_interrupted:
        snapshot = attempt.snapshot_id or (signals.snapshot.snapshot_id if signals.snapshot is not None else "ID")
        yield Evidence(attempt.detail, {"snapshot": snapshot})


@_act(
    symptom="the last rollback failed before it changed anything, or was undone",
    meaning="The last rollback failed and left the state unchanged. Fix the error, or choose another snapshot.",
    commands=("release.verify", "release.rollback --plan"),
)
def _rollback_given_up(signals: Signals) -> Iterator[Evidence]:
    attempt = signals.attempt
    if attempt is not None and attempt.status == "failed" and attempt.had_no_effect and not signals.is_interrupted:
        yield Evidence(attempt.detail)


@_act(
    symptom="health fails, and the latest release is the first deployment",
    meaning="The service is not deployed yet, or its first deployment is unhealthy. Deploy it. A rollback removes the "
    "state that it created, and its safety snapshot contains that.",
    commands=("release.rollback --plan", "release.rollback"),
)
def _first_unhealthy(signals: Signals) -> Iterator[Evidence]:
    health, ready = _failed_health(signals), signals.ready
    if health is not None and ready is not None and ready.first_deployment:
        yield Evidence(f"release {ready.release_id}: {health.detail}")


@_act(
    symptom="health fails, and a release was prepared",
    meaning="The service is down or unhealthy after the release. Deploy the old code, then roll back the state.",
    commands=("release.rollback --plan", "release.rollback"),
)
def _unhealthy(signals: Signals) -> Iterator[Evidence]:
    is_later = signals.ready is not None and not signals.ready.first_deployment
    if (health := _failed_health(signals)) and signals.ready is not None and is_later and not signals.is_restored:
        yield Evidence(f"release {signals.ready.release_id}: {health.detail}")


@_act(
    symptom="health fails, and there is no release to roll back to",
    meaning="The service is down or unhealthy. Start it, or find the cause, before any release. If it was never "
    "deployed here, prepare its first release with the flag `--first`.",
    commands=("gate.run {health}", "release.diagnose"),
)
def _unhealthy_unreleased(signals: Signals) -> Iterator[Evidence]:
    if (health := _failed_health(signals)) and signals.ready is None:
        yield Evidence(health.detail, _gate_values(signals))


@_act(
    symptom="health cannot be read, or its form changed since the release was prepared",
    meaning="Whether the service is healthy is unknown. Look at its answer. If it is healthy, set "
    "release.health.expect to what a healthy answer has.",
    commands=("gate.run {health}",),
)
def _health_unknown(signals: Signals) -> Iterator[Evidence]:
    health, rate = signals.health, signals.health_rate
    if health is not None and rate is not None and rate.passed == 0 and health.status == "unknown":
        yield Evidence(health.detail, _gate_values(signals))


@_act(
    symptom="some samples of the health pass and others fail",
    meaning="The service is flapping: it restarts again and again, or one of several processes at the URL is "
    "unhealthy. A watch takes enough samples to judge the release.",
    commands=("release.watch --for 5m",),
)
def _flapping(signals: Signals) -> Iterator[Evidence]:
    rate, health = signals.health_rate, signals.health
    if rate is not None and health is not None and rate.is_flapping:
        yield Evidence(f"{rate}; one that failed: {health.detail}")


@_act(
    symptom="health answers much more slowly than when the release was prepared",
    meaning="The service answers, and it is slow: it may be overloaded, or wait for something. A watch takes enough "
    "samples to judge the release.",
    commands=("release.watch --for 5m",),
)
def _slow(signals: Signals) -> Iterator[Evidence]:
    if rate := signals.health_rate:
        latency = compare_latency(rate.latency_ms, signals.baseline, signals.settings.release.watch)
        if latency.finding == "bad":
            yield Evidence(f"{rate.samples} samples: {latency.why}")


@_act(
    symptom="the audit chain is broken",
    meaning="The audit log was altered or cut. Copy it, then find out who changed it. A rollback still works to each "
    "snapshot whose event is unaltered.",
    commands=("release.audit",),
)
def _chain_broken(signals: Signals) -> Iterator[Evidence]:
    if signals.audit is not None and not signals.audit.intact:
        yield Evidence(str(signals.audit.problems[0]))


@_act(
    symptom="the latest release snapshot is damaged or cannot be verified",
    meaning="The latest snapshot cannot be trusted. Prepare a new one; for a rollback, choose another snapshot.",
    commands=("release.verify", "release.prepare"),
)
def _snapshot_unrestorable(signals: Signals) -> Iterator[Evidence]:
    verdict = signals.verdict
    if verdict is not None and verdict.status != "verified":
        reason = str(verdict.findings[0]) if verdict.findings else "an older tool took it, and it has no digests"
        yield Evidence(f"{verdict.snapshot_id}: {reason}")


@_act(
    symptom="an older snapshot does not agree with the audit log, or with its signed statement",
    meaning="A snapshot was replaced, or its records were removed. A rollback refuses it. Find out who changed it.",
    commands=("release.verify",),
)
def _snapshot_refused(signals: Signals) -> Iterator[Evidence]:
    for name, reason in signals.refused.items():
        if signals.snapshot is None or name != signals.snapshot.snapshot_id:
            yield Evidence(f"{name}: {reason}")


@_act(
    symptom="the last drill of the latest release snapshot failed",
    meaning="The test restore of the latest snapshot failed. Find the cause before you need the snapshot.",
    commands=("release.drill --snapshot {snapshot}", "release.prepare"),
)
def _drill_failed(signals: Signals) -> Iterator[Evidence]:
    drill = signals.restore_test
    if drill is not None and signals.snapshot is not None and drill.status == "failed":
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(f"{snapshot}, {drill.at}: {drill.detail}", {"snapshot": snapshot})


@_act(
    symptom="a manifest, a snapshot, the rollback state, a log or a disk cannot be read",
    meaning="A part of the pipeline cannot be read, so this diagnosis is incomplete.",
    commands=("release.verify",),
)
def _unreadable(signals: Signals) -> Iterator[Evidence]:
    for name, reason in signals.unread:
        if name not in ("pairing", "health"):
            yield Evidence(f"{name}: {reason}")


@_act(
    symptom="the request to the health endpoint cannot be sent",
    meaning="The health of the service is unknown, because this environment lacks what the request needs. Set it, then "
    "run this command again.",
    commands=("release.diagnose",),
)
def _unsendable(signals: Signals) -> Iterator[Evidence]:
    for name, reason in signals.unread:
        if name == "health":
            yield Evidence(reason)


@_act(
    symptom="an MCP server is in error, or its circuit is open",
    meaning="The service runs without one of its MCP servers. Fix that server. If the release changed its "
    "configuration, check whether a rollback would restore it.",
    commands=("gate.run {mcp}", "release.rollback --plan"),
)
def _mcp_degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None else ():
        if part.startswith("mcpServers."):
            yield Evidence(part.removeprefix("mcpServers."), _gate_values(signals))


@_act(
    symptom="health is degraded",
    meaning="The service answers, but one of its parts is degraded. Fix that part. If the release changed it, "
    "check whether a rollback would restore it.",
    commands=("release.preflight --only {health} --strict", "release.rollback --plan"),
)
def _degraded(signals: Signals) -> Iterator[Evidence]:
    for part in signals.health.degraded if signals.health is not None and signals.health.passed else ():
        if not part.startswith("mcpServers."):
            yield Evidence(part, _gate_values(signals))


@_act(
    symptom="a queue or callback count is over its limit",
    meaning="Too many messages or callbacks wait, fail or are rejected. Find the cause before any other step.",
    commands=("release.watch --for 5m",),
)
def _pressure(signals: Signals) -> Iterator[Evidence]:
    for count in signals.reliability.over if signals.reliability is not None else ():
        yield Evidence(count)


@_act(
    symptom="the reliability endpoint gives no counts",
    meaning="The queue and callback counts are unknown. Check the URL and the secret in release.reliability.",
    commands=("release.diagnose",),
)
def _pressure_unknown(signals: Signals) -> Iterator[Evidence]:
    report = signals.reliability
    is_down = signals.health is not None and signals.health.status == "unreachable"
    if report is not None and report.status in ("unknown", "unreachable") and not is_down:
        yield Evidence(f"{report.url}: {report.detail}")


@_act(
    symptom="a required asset, or the program of a command, does not exist",
    meaning="The configuration names something that does not exist. Correct the path, or bring it back: a rollback "
    "restores an asset that was lost.",
    commands=("release.preflight",),
)
def _missing(signals: Signals) -> Iterator[Evidence]:
    may_lack_assets = signals.is_before_first
    yield from (
        Evidence(str(missing))
        for missing in signals.missing
        if missing.needs and not missing.is_exposed and not (missing.is_asset and may_lack_assets)
    )


@_act(
    symptom="root runs or trusts a file that another user can change",
    meaning="A user who can change tasks.py, invoke.yaml, the program of a command or a trusted key decides what root "
    "runs or restores. Run inv as the user of the service, or give the file to root.",
    commands=("release.preflight",),
)
def _exposed(signals: Signals) -> Iterator[Evidence]:
    yield from (Evidence(str(missing)) for missing in signals.missing if missing.is_exposed)


@_act(
    symptom="a command gate of the latest release failed (build, tests)",
    meaning="The release is blocked, and nothing live was changed. Fix the failure; do not deploy.",
    commands=("gate.run {gate}", "release.prepare"),
)
def _build_or_tests_failed(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "command")


@_act(
    symptom="the health gate of the latest release failed",
    meaning="The service was unhealthy before the release. Find the cause before any release.",
    commands=("gate.run {gate}", "release.prepare"),
)
def _not_ready(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "health")


@_act(
    symptom="another gate of the latest release failed",
    meaning="A gate blocks the release. Fix the failure.",
    commands=("gate.run {gate}", "release.prepare"),
)
def _gate_failed(signals: Signals) -> Iterator[Evidence]:
    return _failed_gates(signals, "other")


@_act(
    symptom="the latest release is blocked, and no gate failed",
    meaning="All gates passed, but the release is blocked for another reason. Fix the cause.",
    commands=("release.prepare",),
)
def _blocked(signals: Signals) -> Iterator[Evidence]:
    latest = signals.latest
    if latest is not None and latest.status == "blocked" and not signals.blocking:
        reason = latest.diagnostics[0] if latest.diagnostics else "its manifest gives no reason"
        yield Evidence(f"release {latest.release_id}: {reason}")


@_act(
    symptom="a disk has less free space, or fewer free inodes, than a rollback may need",
    meaning="A rollback may be refused for lack of disk space; the refusal changes nothing. Free space now.",
    commands=("release.status",),
)
def _low_disk(signals: Signals) -> Iterator[Evidence]:
    for disk in signals.disks:
        for problem in disk.problems:
            yield Evidence(problem)


@_act(
    symptom="a pairing store cannot be read",
    meaning="A pairing store that cannot be read admits no sender. Fix it, or move it away to start an empty one.",
    commands=("pairing.list telegram", "pairing.list whatsapp"),
)
def _pairing_unusable(signals: Signals) -> Iterator[Evidence]:
    for name, reason in signals.unread:
        if name == "pairing":
            yield Evidence(reason)


@_act(
    symptom="the chain of the pairing log is broken",
    meaning="The log of approvals was altered or cut. Copy it, find out who changed it, and review the approved "
    "senders.",
    commands=("pairing.audit", "pairing.list telegram --approved", "pairing.list whatsapp --approved"),
)
def _pairing_chain_broken(signals: Signals) -> Iterator[Evidence]:
    if signals.pairing_audit is not None and not signals.pairing_audit.intact:
        yield Evidence(str(signals.pairing_audit.problems[0]))


@_note(
    symptom="another command holds the lock",
    meaning="Another command is running and may change what is shown here.",
)
def _locked(signals: Signals) -> Iterator[Evidence]:
    if signals.holder is not None:
        yield Evidence(f"{signals.holder}")


@_note(
    symptom="a snapshot is restored, and files or folders were changed since",
    meaning="The state is not that of the snapshot any more. A rollback would restore these files again.",
    commands=("release.rollback --snapshot {snapshot} --plan",),
)
def _files_changed(signals: Signals) -> Iterator[Evidence]:
    return _drifts(signals, lambda drift: [] if drift.is_lost else drift.form)


@_note(
    symptom="a snapshot is restored, and rows of it are missing since",
    meaning="The service or a release removed rows that the rollback had brought back. Services remove rows, for "
    "instance of sent messages; check whether these should exist.",
    commands=("release.rollback --snapshot {snapshot} --plan",),
)
def _rows_missing(signals: Signals) -> Iterator[Evidence]:
    if (last := signals.last_restore) is not None and last.is_in_place:
        for loss in last.losses:
            yield Evidence(loss, {"snapshot": last.target.snapshot_id})


@_note(
    symptom="the latest release snapshot was never drilled",
    meaning="This snapshot has never been test-restored.",
    commands=("release.drill --snapshot {snapshot}",),
)
def _unproved(signals: Signals) -> Iterator[Evidence]:
    is_sound = signals.verdict is not None and signals.verdict.status == "verified"
    if signals.restore_test is None and signals.snapshot is not None and is_sound:
        snapshot = signals.snapshot.snapshot_id
        yield Evidence(snapshot, {"snapshot": snapshot})


@_note(
    symptom="no release was prepared yet",
    meaning="There is no release to roll back to yet.",
    commands=("release.prepare",),
)
def _no_release(signals: Signals) -> Iterator[Evidence]:
    if signals.latest is None and not signals.unread:
        yield Evidence(f"no manifest in {signals.settings.release.root}")


@_note(
    symptom="the latest release snapshot was taken after a release without a verdict",
    meaning="The state in the latest snapshot may be bad already. If a rollback to it does not help, go further back. "
    "Run release.watch after each deploy, so that the good state is known.",
    commands=("release.rollback --plan --snapshot {snapshot}",),
)
def _unjudged(signals: Signals) -> Iterator[Evidence]:
    if better := signals.better:
        yield Evidence(signals.verdicts.sentence, {"snapshot": better.snapshot_id})


@_note(
    symptom="health cannot be read, and has the same form as when the release was prepared",
    meaning="The health of the service is unknown: its answer has no known form. Set release.health.expect to what a "
    "healthy answer has.",
)
def _unreadable_health(signals: Signals) -> Iterator[Evidence]:
    if signals.health is not None and signals.health.passed and signals.health.status == "unknown":
        yield Evidence(f"{signals.health.url}: {signals.health.detail}")


@_note(
    symptom="nothing asks whether the service is healthy",
    meaning="Whether the service runs is unknown: it was not asked. Set release.health.url, or a gate with its URL.",
)
def _nobody_asked(signals: Signals) -> Iterator[Evidence]:
    if not signals.settings.release.questions:
        yield Evidence("neither release.health.url nor an http gate with a URL is set")


@_note(
    symptom="the last notification to a receiver was not delivered",
    meaning="A receiver did not get its last notification. Inform the people behind it yourself, then fix the error.",
    commands=("release.audit",),
)
def _notice_failed(signals: Signals) -> Iterator[Evidence]:
    if signals.audit is None or not signals.audit.intact:
        return
    deliveries = [event for event in signals.audit.events if event["event"] in ("notice.sent", "notice.failed")]
    last_by_receiver = {str(event.get("notice")): event for event in deliveries}
    for name in signals.settings.release.notices:
        last = last_by_receiver.get(name)
        if last is not None and last["event"] == "notice.failed":
            yield Evidence(f"{name}, at {last['time']}: {last.get('detail')}")


@_note(
    symptom="senders wait for approval",
    meaning="A sender waits until an operator approves or rejects it.",
    commands=("pairing.list {channel}",),
)
def _pairing_waiting(signals: Signals) -> Iterator[Evidence]:
    for channel, count in signals.pending.items():
        if count:
            yield Evidence(f"{count} on {channel}", {"channel": channel})


@_note(
    symptom="the program of a notification, a drill or the version does not exist",
    meaning="The configuration names a program that does not exist. A release and a rollback do without it. Correct "
    "the command.",
    commands=("release.preflight",),
)
def _missing_optional(signals: Signals) -> Iterator[Evidence]:
    yield from (Evidence(str(missing)) for missing in signals.missing if not missing.needs)
