"""What to type after an answer that is not good: the last line of each, so that nobody has to look it up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.records import Manifest, PreflightReport, RollbackOutcome

__all__ = [
    "after_audit",
    "after_drill",
    "after_manifest",
    "after_outcome",
    "after_preflight",
    "after_verdicts",
    "after_watch",
    "names_command",
]


def names_command(sentences: Iterable[str]) -> bool:
    """Say whether one of the sentences already says what to type."""
    return any("inv " in sentence for sentence in sentences)


def after_preflight(report: PreflightReport) -> str:
    """Return what to type after a preflight; nothing after one that passed."""
    if report.passed:
        return ""
    alone = f"inv gate.run {report.failed_checks[0]}" if len(report.failed_checks) == 1 else "inv release.preflight"
    return f"Mend that, then: {alone}"


def after_manifest(manifest: Manifest) -> str:
    """Return what to type after a prepare: the way back, or what makes a blocked release ready."""
    if manifest.snapshot is not None:
        return f"To go back to it: inv release.rollback --snapshot {manifest.snapshot.snapshot_id}"
    return f"Nothing was captured. Mend that, then: inv release.prepare --release-id {manifest.release_id}"


def after_outcome(outcome: RollbackOutcome) -> str:
    """Return what to type after a rollback that failed before it could say so itself."""
    if outcome.status != "failed" or names_command(outcome.diagnostics):
        return ""
    return "See what is live and what can be restored: inv release.status"


def after_verdicts(verdicts: Sequence[SnapshotVerdict]) -> str:
    """Return what to type after a verification that found damage."""
    if all(verdict.status != "damaged" for verdict in verdicts):
        return ""
    whole = [verdict.snapshot_id for verdict in verdicts if verdict.status == "verified"]
    newest = f"the newest whole one is {whole[-1]}" if whole else "no whole one was found"
    return (
        f"A rollback refuses what is damaged; {newest}. While the service is well, take a new one: inv release.prepare"
    )


def after_audit(verdict: AuditVerdict) -> str:
    """Return what to do about a chain that does not hold."""
    if verdict.intact:
        return ""
    return (
        "The log was altered or damaged. Keep a copy of the pipeline folder and find out who can write to it. "
        "Rollbacks work all the same. "
        f"Every event that is left: inv release.audit --limit {max(len(verdict.events), 1)}"
    )


def after_drill(status: str, diagnostics: Iterable[str]) -> str:
    """Return what to type after a drill that failed."""
    if status == "passed" or names_command(diagnostics):
        return ""
    return "See which snapshots are whole: inv release.verify. While the service is well, take one: inv release.prepare"


def after_watch(status: str, diagnostics: Iterable[str]) -> str:
    """Return what to type after a watch that is not healthy and has not said so."""
    if status == "healthy" or names_command(diagnostics):
        return ""
    return "See what is wrong and what to do: inv release.diagnose"
