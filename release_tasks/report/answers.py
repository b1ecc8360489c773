"""What a person reads of each stage once it is over; the last line of a bad answer is what to type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from release_tasks.archive.attestation.verification import AttestationVerdict
from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.records import Manifest, PreflightReport, RollbackOutcome
from release_tasks.core.units import show_count, show_seconds
from release_tasks.report.screen import Screen
from release_tasks.report.values import list_of

__all__ = [
    "after_preflight",
    "audit_document",
    "show_audit",
    "show_checks",
    "show_drill",
    "show_manifest",
    "show_outcome",
    "show_verdicts",
    "show_watch",
]


def show_checks(screen: Screen, report: PreflightReport) -> None:
    """Show every gate, then for each that failed what was run, what came of it and what to type next."""
    rows = []
    for check in report.checks:
        took, detail = f"{check.duration_ms / 1000:.1f}s", "".join(check.detail.splitlines()[:1])
        rows.append((check.id, check.status, check.subsystem, took, detail))
    screen.table(("GATE", "RESULT", "SUBSYSTEM", "TIME", "DETAIL"), rows)
    for check in report.checks:
        if check.status != "failed":
            continue
        found = check.diagnostics
        screen.line()
        screen.verdict("advisory" if check.advisory else "failed", f"{check.id} ({check.subsystem}): {check.detail}")
        asked = {"asked": "url", "exit code": "exitCode", "signal": "signal", "HTTP status": "httpStatus"}
        facts = {"ran": check.command or None, **{label: found.get(key) for label, key in asked.items()}}
        screen.note(*(f"{label}: {fact}" for label, fact in facts.items() if fact is not None))
        screen.note(*map(str, list_of(found, "problems")[1:]))
        screen.note(*(f"| {line}" for line in list_of(found, "outputTail")))
        if found.get("next"):
            screen.note(f"next: {found['next']}")


def after_preflight(report: PreflightReport) -> str:
    """Return what to type after a preflight; nothing after one that passed."""
    if report.passed:
        return ""
    alone = f"inv gate.run {report.failed_checks[0]}" if len(report.failed_checks) == 1 else "inv release.preflight"
    return f"Mend that, then: {alone}"


def show_manifest(screen: Screen, manifest: Manifest) -> None:
    """Show a release: its gates, its verdict, what blocks it, where manifest and snapshot are."""
    show_checks(screen, manifest.preflight)
    screen.line()
    version = manifest.app_version or "unknown version"
    screen.verdict(manifest.status, f"{manifest.release_id} ({manifest.app_name} {version})")
    screen.note(*manifest.diagnostics)
    snapshot = manifest.snapshot
    if snapshot is None:
        screen.note(
            f"manifest {manifest.manifest_path}",
            f"Nothing was captured. Mend that, then: inv release.prepare --release-id {manifest.release_id}",
        )
        return
    for artifact in manifest.artifacts:
        size = f"{artifact.size} bytes" if artifact.exists else "absent"
        screen.note(f"{artifact.id}: {size}  {artifact.path}")
    screen.note(
        f"snapshot {snapshot.snapshot_id}",
        f"digest   {snapshot.digest}",
        f"manifest {manifest.manifest_path}",
        f"To go back to it: inv release.rollback --snapshot {snapshot.snapshot_id}",
    )


def show_outcome(screen: Screen, outcome: RollbackOutcome) -> None:
    """Show what a rollback did to each asset, how health is, and how to undo it."""
    is_restart = outcome.status == "restored" and not (outcome.restored_assets or outcome.removed_assets)
    live = f"snapshot {outcome.snapshot_id} is live"
    if is_restart and outcome.restart_command:
        screen.verdict("restarted", f"{live} already; its data was left alone")
    elif outcome.status == "restored":
        screen.verdict("restored", live)
    elif outcome.status == "noop":
        screen.verdict("noop", f"{live} already and the service is healthy; nothing was changed")
    else:
        screen.verdict("failed", f"rollback to {outcome.snapshot_id or 'the newest snapshot'}")
    changes = {"restored": outcome.restored_assets, "removed": outcome.removed_assets}
    for word, keys in {**changes, "left as it was": outcome.skipped_assets}.items():
        if keys:
            screen.note(f"{word}: {', '.join(keys)}")
    if outcome.restart_command:
        screen.note(f"restarted with: {outcome.restart_command}")
    if (health := outcome.health_check) is not None:
        parts = f" ({', '.join(health.degraded)})" if health.degraded else ""
        screen.note(f"health: {health.status}{parts} at {health.url}")
    screen.note(*outcome.diagnostics)
    safety = outcome.safety_snapshot_id
    if safety and outcome.status == "restored" and not is_restart:
        if outcome.damaged_assets:
            screen.note(
                f"Damaged before, and replaced by new files: {', '.join(outcome.damaged_assets)}. "
                "Restart whatever still has the old ones open.",
                f"What was left of them is kept in {safety}; there is no way back to it.",
            )
        else:
            screen.note(f"The state before is kept. To go back to it: inv release.rollback --snapshot {safety}")
    if outcome.status == "failed" and not _names_command(outcome.diagnostics):
        screen.note("See what is live and what can be restored: inv release.status")


def show_watch(screen: Screen, report: dict[str, Any], outcome: RollbackOutcome | None) -> None:
    """Show how a watch ended and why, its rollback, and what comes next; ``report`` is what ``--json`` prints."""
    counts = report["counts"]
    numbers = ", ".join(f"{counts[word]} {word}" for word in ("ok", "bad", "unknown"))
    release = f"release {report['releaseId']}" if report["releaseId"] else "the service"
    screen.verdict(report["status"], f"{release}: {show_count(counts['looks'], 'look')}, {numbers}")
    screen.note(*report["reasons"])
    if outcome is not None:
        show_outcome(screen, outcome)
    screen.note(*report["diagnostics"])
    if report["status"] != "healthy" and not _names_command(report["diagnostics"]):
        screen.note("See what is wrong and what to do: inv release.diagnose")


def show_drill(screen: Screen, found: dict[str, Any]) -> None:
    """Show what a drill found, given as its JSON document."""
    rows = [(asset["key"], asset["kind"], asset["status"], asset["detail"]) for asset in found["assets"]]
    screen.table(("ASSET", "KIND", "RESULT", "DETAIL"), rows)
    for database in found["databases"]:
        tables = ", ".join(f"{name} {'?' if rows is None else rows}" for name, rows in database["tables"].items())
        screen.note(f"{database['key']}: integrity_check {database['integrity']}; rows: {tables or 'none'}")
    boot = found["boot"]
    if boot is not None:
        screen.note(f"started: {boot['command']}; {boot['url']}: {boot['detail']}")
        screen.note(*(f"| {line}" for line in boot["outputTail"]))
    snapshot = found["snapshotId"] or "the newest snapshot"
    took = show_seconds(found["durationMs"] / 1000)
    if found["status"] == "passed":
        also = " and a service got healthy on it" if boot else ""
        screen.verdict("passed", f"{snapshot} can be restored{also}; it took {took}, and nothing live was touched")
    else:
        screen.verdict("failed", f"drill of {snapshot}, after {took}")
    screen.note(*found["diagnostics"])
    if found["status"] != "passed" and not _names_command(found["diagnostics"]):
        screen.note(
            "See which snapshots are whole: inv release.verify. "
            "While the service is well, take one: inv release.prepare"
        )


def show_verdicts(
    screen: Screen, verdicts: Sequence[SnapshotVerdict], attestations: Iterable[AttestationVerdict] = ()
) -> None:
    """Show the verification of each snapshot and of what is attested of each release, and every finding."""
    for verdict in verdicts:
        screen.verdict(verdict.status, verdict.snapshot_id)
        screen.note(*map(str, verdict.findings), *verdict.notes)
    for attestation in attestations:
        if attestation.status != "none":
            key = f", key {attestation.key_id}" if attestation.key_id else ""
            screen.verdict(attestation.status, f"release {attestation.release_id}{key}")
        screen.note(*map(str, attestation.findings))
    if any(verdict.status == "damaged" for verdict in verdicts):
        whole = [verdict.snapshot_id for verdict in verdicts if verdict.status == "verified"]
        newest = f"the newest whole one is {whole[-1]}" if whole else "no whole one was found"
        screen.note(
            f"A rollback refuses what is damaged; {newest}. "
            "While the service is well, take a new one: inv release.prepare"
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
    rows = []
    for event in verdict.events[-limit:]:
        concerns = event.get("snapshotId") or event.get("releaseId") or ""
        if "channel" in event:
            concerns = f"{event['channel']} {event.get('senderId', '')}".rstrip()
        when = (event.get(key, "") for key in ("time", "event", "status"))
        rows.append([str(cell) for cell in (event["seq"], *when, concerns, event.get("actor", ""))])
    screen.table(("SEQ", "TIME", "EVENT", "STATUS", "CONCERNS", "ACTOR"), rows)
    screen.verdict("intact" if verdict.intact else "broken", show_count(len(verdict.events), "event"))
    screen.note(*map(str, [*verdict.problems, *verdict.notes]))
    if not verdict.intact:
        screen.note(
            "The log was altered or damaged. Keep a copy of the pipeline folder and find out who can write to it. "
            "Rollbacks work all the same. "
            f"Every event that is left: inv release.audit --limit {max(len(verdict.events), 1)}"
        )


def _names_command(sentences: Iterable[str]) -> bool:
    return any("inv " in sentence for sentence in sentences)
