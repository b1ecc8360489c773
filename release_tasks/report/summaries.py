"""Records as a person reads them on a Screen; one function for each kind of answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from release_tasks.archive.attestation.verification import AttestationVerdict
from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.records import Check, HealthReport, Manifest, PreflightReport, RollbackOutcome
from release_tasks.report.advice import after_audit, after_manifest, after_outcome, after_verdicts
from release_tasks.report.screen import Screen

__all__ = ["audit_document", "show_audit", "show_checks", "show_manifest", "show_outcome", "show_verdicts"]


def show_checks(screen: Screen, report: PreflightReport) -> None:
    """Show every gate, then for each that failed what was run, what came of it and what to type next."""
    rows = [
        (check.id, check.status, check.subsystem, _seconds(check.duration_ms), _first_line(check.detail))
        for check in report.checks
    ]
    screen.table(("GATE", "RESULT", "SUBSYSTEM", "TIME", "DETAIL"), rows)
    for check in report.checks:
        if check.status == "failed":
            _show_failure(screen, check)


def show_manifest(screen: Screen, manifest: Manifest) -> None:
    """Show a release: its gates, its verdict, what blocks it, where manifest and snapshot are."""
    show_checks(screen, manifest.preflight)
    screen.line()
    version = manifest.app_version or "unknown version"
    screen.verdict(manifest.status, f"{manifest.release_id} ({manifest.app_name} {version})")
    for sentence in manifest.diagnostics:
        screen.note(sentence)
    if manifest.snapshot is not None:
        for artifact in manifest.artifacts:
            size = f"{artifact.size} bytes" if artifact.exists else "absent"
            screen.note(f"{artifact.id}: {size}  {artifact.path}")
        screen.note(f"snapshot {manifest.snapshot.snapshot_id}")
        screen.note(f"digest   {manifest.snapshot.digest}")
    screen.note(f"manifest {manifest.manifest_path}")
    screen.note(after_manifest(manifest))


def show_outcome(screen: Screen, outcome: RollbackOutcome) -> None:
    """Show what a rollback did to each asset, how health is, and how to undo it."""
    is_restart = outcome.status == "restored" and not (outcome.restored_assets or outcome.removed_assets)
    told = {
        "restored": f"snapshot {outcome.snapshot_id} is live",
        "noop": f"snapshot {outcome.snapshot_id} is live already and the service is healthy; nothing was changed",
        "failed": f"rollback to {outcome.snapshot_id or 'the newest snapshot'}",
    }
    if is_restart and outcome.restart_command:
        screen.verdict("restarted", f"snapshot {outcome.snapshot_id} is live already; its data was left alone")
    else:
        screen.verdict(outcome.status, told[outcome.status])
    for word, keys in (
        ("restored", outcome.restored_assets),
        ("removed", outcome.removed_assets),
        ("left as it was", outcome.skipped_assets),
    ):
        if keys:
            screen.note(f"{word}: {', '.join(keys)}")
    if outcome.restart_command:
        screen.note(f"restarted with: {outcome.restart_command}")
    if outcome.health_check is not None:
        screen.note(_health_line(outcome.health_check))
    for sentence in outcome.diagnostics:
        screen.note(sentence)
    if outcome.safety_snapshot_id and outcome.status == "restored" and not is_restart:
        _show_way_back(screen, outcome)
    if advice := after_outcome(outcome):
        screen.note(advice)


def _show_way_back(screen: Screen, outcome: RollbackOutcome) -> None:
    if outcome.damaged_assets:
        damaged = ", ".join(outcome.damaged_assets)
        screen.note(
            f"Damaged before, and replaced by new files: {damaged}. Restart whatever still has the old ones open."
        )
        screen.note(f"What was left of them is kept in {outcome.safety_snapshot_id}; there is no way back to it.")
    else:
        screen.note(
            f"The state before is kept. To go back to it: inv release.rollback --snapshot {outcome.safety_snapshot_id}"
        )


def audit_document(verdict: AuditVerdict, limit: int) -> dict[str, Any]:
    """Return what ``--json`` says of an audit log: its verdict and its newest events."""
    return {
        "status": "intact" if verdict.intact else "broken",
        "events": verdict.events[-limit:],
        "total": len(verdict.events),
        "problems": [str(finding) for finding in verdict.problems],
        "notes": [str(finding) for finding in verdict.notes],
    }


def show_audit(screen: Screen, verdict: AuditVerdict, limit: int) -> None:
    """Show the newest events and whether the chain holds."""
    rows = [
        (
            str(event["seq"]),
            str(event.get("time", "")),
            str(event.get("event", "")),
            str(event.get("status", "")),
            _concern(event),
            str(event.get("actor", "")),
        )
        for event in verdict.events[-limit:]
    ]
    screen.table(("SEQ", "TIME", "EVENT", "STATUS", "CONCERNS", "ACTOR"), rows)
    count = f"{len(verdict.events)} event{'' if len(verdict.events) == 1 else 's'}"
    screen.verdict("intact" if verdict.intact else "broken", count)
    for finding in [*verdict.problems, *verdict.notes]:
        screen.note(str(finding))
    if advice := after_audit(verdict):
        screen.note(advice)


def show_verdicts(
    screen: Screen, verdicts: Sequence[SnapshotVerdict], attestations: Iterable[AttestationVerdict] = ()
) -> None:
    """Show the verification of each snapshot and of what is attested of each release, and every finding."""
    for verdict in verdicts:
        screen.verdict(verdict.status, verdict.snapshot_id)
        for finding in verdict.findings:
            screen.note(str(finding))
        for note in verdict.notes:
            screen.note(note)
    for attestation in attestations:
        if attestation.status != "none":
            told = f"release {attestation.release_id}"
            screen.verdict(attestation.status, f"{told}, key {attestation.key_id}" if attestation.key_id else told)
        for problem in attestation.findings:
            screen.note(str(problem))
    if advice := after_verdicts(verdicts):
        screen.note(advice)


def _show_failure(screen: Screen, check: Check) -> None:
    told: dict[str, Any] = check.diagnostics
    screen.line()
    screen.verdict("advisory" if check.advisory else "failed", f"{check.id} ({check.subsystem}): {check.detail}")
    if check.command:
        screen.note(f"ran: {check.command}")
    for key, label in (
        ("url", "asked"),
        ("exitCode", "exit code"),
        ("signal", "signal"),
        ("httpStatus", "HTTP status"),
    ):
        if told.get(key) is not None:
            screen.note(f"{label}: {told[key]}")
    problems = told.get("problems")
    for problem in problems[1:] if isinstance(problems, list) else []:
        screen.note(str(problem))
    tail = told.get("outputTail")
    for line in tail if isinstance(tail, list) else []:
        screen.note(f"| {line}")
    if told.get("next"):
        screen.note(f"next: {told['next']}")


def _concern(event: dict[str, Any]) -> str:
    if "channel" in event:
        return f"{event['channel']} {event.get('senderId', '')}".rstrip()
    return str(event.get("snapshotId") or event.get("releaseId") or "")


def _health_line(health: HealthReport) -> str:
    parts = f" ({', '.join(health.degraded)})" if health.degraded else ""
    return f"health: {health.status}{parts} at {health.url}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f}s"
