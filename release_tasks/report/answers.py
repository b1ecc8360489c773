"""The answer of each stage on a screen; the last line of a negative answer contains the command to type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from release_tasks.archive.attestation.verification import AttestationVerdict
from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.records import Check, Manifest, PreflightReport, RollbackOutcome
from release_tasks.core.typed import command_pattern, typed
from release_tasks.core.units import show_count, show_seconds
from release_tasks.report.screen import Screen
from release_tasks.report.values import list_of, tail_of

__all__ = [
    "after_preflight",
    "audit_document",
    "show_audit",
    "show_checks",
    "show_drill",
    "show_manifest",
    "show_outcome",
    "show_preflight",
    "show_verdicts",
    "show_watch",
]


def show_checks(screen: Screen, report: PreflightReport, advice: str = "") -> None:
    """Show every gate with its reason, then the evidence of each failed gate: command or URL, output, next command.

    ``advice`` is the last line of the answer; no gate repeats the command in it.
    """
    has_subsystems = any(check.subsystem != check.id for check in report.checks)
    columns = ("GATE", "RESULT", *(["SUBSYSTEM"] if has_subsystems else []), "TIME", "REASON")
    rows = []
    for check in report.checks:
        duration, reason = f"{check.duration_ms / 1000:.1f}s", "".join(check.detail.splitlines()[:1])
        rows.append((check.id, check.status, *([check.subsystem] if has_subsystems else []), duration, reason))
    screen.table(columns, rows)
    for check in report.checks:
        if check.status == "failed":
            screen.line()
            screen.verdict("advisory" if check.advisory else "failed", check.id)
            screen.note(*_evidence(check, advice))


def _evidence(check: Check, advice: str) -> Iterator[str]:
    """Yield what the table does not show of a failed gate."""
    found = check.diagnostics
    yield from (f"| {line}" for line in check.detail.splitlines()[1:])
    url = found.get("url")
    if url:
        yield f"url: {url}"
    elif check.command:
        yield f"command: {check.command}"
    for label, key in (("exit code", "exitCode"), ("signal", "signal"), ("HTTP status", "httpStatus")):
        value = found.get(key)
        if value is not None and not re.search(rf"\b{re.escape(str(value))}\b", check.detail):
            yield f"{label}: {value}"
    yield from map(str, list_of(found, "problems")[1:])
    yield from (f"| {line}" for line in tail_of(found))
    if found.get("logPath"):
        yield f"log: {found['logPath']}"
    # A gate's next command may end with a comment that names its log.
    following = str(found.get("next") or "").partition("  #")[0]
    if following and not advice.endswith(f" {following}"):
        yield f"next: {following}"


def show_preflight(screen: Screen, report: PreflightReport) -> None:
    """Show the gates of a preflight, its verdict and the command to type, where no release follows."""
    advice = after_preflight(report)
    show_checks(screen, report, advice)
    ran = [check for check in report.checks if not check.is_left_out]
    left_out = len(report.checks) - len(ran)
    if report.passed:
        screen.line()
        screen.verdict(
            "passed", f"every gate that ran passed; {left_out} excluded" if left_out else "every gate passed"
        )
    elif [check.status for check in ran] != ["failed"]:  # the failure of a single gate is the verdict
        screen.line()
        count = len(report.failed_checks)
        screen.verdict("failed", f"{count} of {show_count(len(ran), 'gate')} did not pass")
    if advice:
        screen.note(advice)


def after_preflight(report: PreflightReport) -> str:
    """Return the command to type after a failed preflight; empty after one that passed."""
    if report.passed:
        return ""
    alone = typed("gate.run", report.failed_checks[0]) if len(report.failed_checks) == 1 else typed("release.preflight")
    return f"Fix it, then run: {alone}"


def show_manifest(screen: Screen, manifest: Manifest) -> None:
    """Show a release: its gates, its verdict, other blockers, and the paths of manifest and snapshot."""
    show_checks(screen, manifest.preflight)
    screen.line()
    version = manifest.app_version or "unknown version"
    screen.verdict(manifest.status, f"{manifest.release_id} ({manifest.app_name} {version})")
    shown = {f"{check.id}: {check.detail}" for check in manifest.preflight.checks}
    screen.note(*(reason for reason in manifest.diagnostics if reason not in shown))
    snapshot = manifest.snapshot
    if snapshot is None:
        screen.note(
            f"manifest {manifest.manifest_path}",
            f"Nothing was captured. Fix it, then run: {typed('release.prepare', '--release-id', manifest.release_id)}",
        )
        return
    for artifact in manifest.artifacts:
        size = f"{artifact.size} bytes" if artifact.exists else "absent"
        screen.note(f"{artifact.id}: {size}  {artifact.path}")
    screen.note(
        f"digest   {snapshot.digest}",
        f"manifest {manifest.manifest_path}",
        f"To restore this snapshot: {typed('release.rollback', '--snapshot', snapshot.snapshot_id)}",
    )


def show_outcome(screen: Screen, outcome: RollbackOutcome) -> None:
    """Show what a rollback did to each asset, the health after it, and how to undo it."""
    is_restart = outcome.status == "restored" and not (outcome.restored_assets or outcome.removed_assets)
    is_restart = is_restart and bool(outcome.restart_command)
    live = f"snapshot {outcome.snapshot_id} is"
    if is_restart:
        screen.verdict("restarted", f"{live} already live; no data was changed")
    elif outcome.status == "restored":
        screen.verdict("restored", f"{live} live")
    elif outcome.status == "noop":
        screen.verdict("noop", f"{live} already live; nothing was changed")
    else:
        screen.verdict("failed", f"rollback to {outcome.snapshot_id or 'the latest snapshot'}")
    if outcome.status in ("restored", "failed") and not is_restart:
        changes = (outcome.restored_assets, outcome.removed_assets, outcome.skipped_assets)
        for word, keys in zip(("restored", "removed", "unchanged"), changes, strict=True):
            if keys:
                screen.note(f"{word}: {', '.join(keys)}")
    if outcome.stop_command:
        screen.note(f"stopped with: {outcome.stop_command}")
    if outcome.restart_command:
        screen.note(f"restarted with: {outcome.restart_command}")
    health = outcome.health_check
    # A diagnostic that reports failed health names the URL too.
    if health is not None and not (health.url and any(health.url in text for text in outcome.diagnostics)):
        parts = f" ({', '.join(health.degraded)})" if health.degraded else ""
        screen.note(f"health: {health.status}{parts} at {health.url}")
    screen.note(*outcome.diagnostics)
    safety = outcome.safety_snapshot_id
    did_restore = outcome.status == "restored" and bool(outcome.restored_assets or outcome.removed_assets)
    if safety and did_restore and outcome.damaged_assets:
        screen.note(
            f"Damaged before the rollback, replaced by new files: {', '.join(outcome.damaged_assets)}. "
            "Restart every process that still has the old files open.",
            f"The remains of the damaged files are in {safety}; a rollback cannot restore them.",
        )
    elif safety and did_restore:
        screen.note(f"To undo this rollback: {typed('release.rollback', '--snapshot', safety)}")
    if outcome.status == "failed" and not _names_command(outcome.diagnostics):
        screen.note(f"See what is live and what can be restored: {typed('release.status')}")


def show_watch(screen: Screen, report: dict[str, Any], outcome: RollbackOutcome | None) -> None:
    """Show the verdict of a watch, its reasons and its rollback; ``report`` is its JSON document."""
    counts = {word: report["counts"][word] for word in ("ok", "bad", "unknown")}
    subject = f"release {report['releaseId']}" if report["releaseId"] else "the service"
    if report["status"] != "healthy":  # the reason of a healthy watch names the counts
        numbers = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        subject += f": {show_count(report['counts']['looks'], 'sample')}{f', {numbers}' if numbers else ''}"
    screen.verdict(report["status"], subject)
    screen.note(*report["reasons"])
    if outcome is not None:
        show_outcome(screen, outcome)
    screen.note(*report["diagnostics"])
    if report["status"] != "healthy" and not _names_command(report["diagnostics"]):
        screen.note(f"See what is wrong and what to do: {typed('release.diagnose')}")


def show_drill(screen: Screen, found: dict[str, Any]) -> None:
    """Show the result of a drill; ``found`` is its JSON document."""
    rows = [(asset["key"], asset["kind"], asset["status"], asset["detail"]) for asset in found["assets"]]
    screen.table(("ASSET", "KIND", "RESULT", "REASON"), rows)
    for database in found["databases"]:
        tables = ", ".join(f"{name} {'?' if rows is None else rows}" for name, rows in database["tables"].items())
        screen.note(f"{database['key']}: integrity_check {database['integrity']}; rows: {tables or 'none'}")
    boot = found["boot"]
    if boot is not None:
        screen.note(f"started: {boot['command']}; {boot['url']}: {boot['detail']}")
        screen.note(*(f"| {line}" for line in boot["outputTail"]))
    snapshot = found["snapshotId"] or "the latest snapshot"
    duration = show_seconds(found["durationMs"] / 1000)
    if found["status"] == "passed":
        booted = ", and a service started on it became healthy" if boot else ""
        screen.verdict(
            "passed", f"{snapshot} can be restored{booted}; the drill took {duration} and changed nothing live"
        )
    else:
        screen.verdict("failed", f"drill of {snapshot}, after {duration}")
    screen.note(*found["diagnostics"])
    if found["status"] != "passed" and not _names_command(found["diagnostics"]):
        screen.note(
            f"See which snapshots are undamaged: {typed('release.verify')}. "
            f"While the service is healthy, take a snapshot: {typed('release.prepare')}"
        )


def show_verdicts(
    screen: Screen, verdicts: Sequence[SnapshotVerdict], attestations: Iterable[AttestationVerdict] = ()
) -> None:
    """Show the verdict on each snapshot and on the attestation of each release, with every finding."""
    for verdict in verdicts:
        screen.verdict(verdict.status, verdict.snapshot_id)
        screen.note(*map(str, verdict.findings), *verdict.notes)
    for attestation in attestations:
        if attestation.status != "none":
            key = f", key {attestation.key_id}" if attestation.key_id else ""
            screen.verdict(attestation.status, f"release {attestation.release_id}{key}")
        screen.note(*map(str, attestation.findings))
    if any(verdict.status == "damaged" for verdict in verdicts):
        verified = [verdict.snapshot_id for verdict in verdicts if verdict.status == "verified"]
        latest = (
            f"The latest snapshot that was verified now is {verified[-1]}"
            if verified
            else "No verified snapshot was found"
        )
        screen.note(
            f"A rollback refuses a damaged snapshot. {latest}. "
            f"While the service is healthy, take a new snapshot: {typed('release.prepare')}"
        )


def audit_document(verdict: AuditVerdict, limit: int) -> dict[str, Any]:
    """Return the ``--json`` document of an audit log: its verdict and its latest events."""
    return {
        "status": "intact" if verdict.intact else "broken",
        "events": verdict.events[-limit:],
        "total": len(verdict.events),
        "problems": [str(finding) for finding in verdict.problems],
        "notes": [str(finding) for finding in verdict.notes],
    }


def show_audit(screen: Screen, verdict: AuditVerdict, limit: int) -> None:
    """Show the latest events and whether the chain is intact."""
    rows = []
    for event in verdict.events[-limit:]:
        subject = event.get("snapshotId") or event.get("releaseId") or ""
        if "channel" in event:
            subject = f"{event['channel']} {event.get('senderId', '')}".rstrip()
        when = (event.get(key, "") for key in ("time", "event", "status"))
        rows.append([str(cell) for cell in (event["seq"], *when, subject, event.get("actor", ""))])
    screen.table(("SEQ", "TIME", "EVENT", "STATUS", "SUBJECT", "ACTOR"), rows)
    screen.verdict("intact" if verdict.intact else "broken", show_count(len(verdict.events), "event"))
    screen.note(*map(str, [*verdict.problems, *verdict.notes]))
    if not verdict.intact:
        screen.note(
            "The log was altered or damaged. Keep a copy of the pipeline folder and find out who can write to it. "
            "A rollback works if the event of its snapshot is unaltered, which "
            f"{typed('release.verify')} shows. "
            f"See all remaining events: {typed('release.audit', '--limit', max(len(verdict.events), 1))}"
        )


def _names_command(messages: Iterable[str]) -> bool:
    return any(re.search(command_pattern(), message) for message in messages)
