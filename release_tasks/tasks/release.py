"""The collection ``release``: the stages of the runbook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from invoke import Collection, Context, call

from release_tasks.core.errors import UsageError
from release_tasks.core.typed import typed
from release_tasks.tasks.achieved import prepared_release, record_release, record_rollback
from release_tasks.tasks.diagnose import diagnose
from release_tasks.tasks.drill import drill
from release_tasks.tasks.executor import recall, record, runs_under_stage_executor, stage
from release_tasks.tasks.extract import extract
from release_tasks.tasks.flags import duration_flag, number_flag, output_flag, with_flags, words_flag
from release_tasks.tasks.report import report
from release_tasks.tasks.session import Session, session
from release_tasks.tasks.watch import watch

if TYPE_CHECKING:
    from release_tasks.archive.diff import Comparison
    from release_tasks.core.audit import AuditVerdict
    from release_tasks.report.screen import Screen
    from release_tasks.stages.preflight.engine import PreflightRun

__all__ = ["collection"]

_HEALTH_HELP = "Use this URL instead of release.health.url."
_STRICT_HELP = "Fail the health gate for a degraded service."
_JUNIT_HELP = "Write the results of the gates to this file, as JUnit XML."
# Flags of prepare reach the preflight before it, so that a mistake is refused before any gate runs.
_SHARED = ("health_url", "strict", "json", "release_id", "retention", "first")
_EXECUTOR_LINE = "tasks: {executor_class: release_tasks.executor.StageExecutor}"


@stage(
    shares=_SHARED,
    internal=("deferred", "release_id", "retention", "first"),
    iterable=["only", "skip"],
    help={
        "health_url": _HEALTH_HELP,
        "only": "Run only these gates; repeat the flag or separate names with commas.",
        "skip": "Exclude these gates; a release cannot be prepared without them.",
        "junit": _JUNIT_HELP,
        "strict": _STRICT_HELP,
    },
)
def preflight(
    ctx: Context,
    health_url: str | None = None,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    junit: str | None = None,
    strict: bool = False,
    json: bool = False,
    deferred: bool = False,
    release_id: str | None = None,
    retention: str | None = None,
    first: bool = False,
) -> None:
    """Run every gate: build, tests, health, interfaces; exit 1 when one fails."""
    # Deferred means that a prepare follows, which shows the gates and their verdict. An id that already exists is
    # refused before any gate runs.
    with session(ctx, json) as current:
        _apply_flags(current, health_url, strict, retention)
        junit_file = output_flag(current.settings, "junit", junit) if junit else None
        if current.is_dry:
            if not deferred:
                _show_dry_gates(current, words_flag(only), words_flag(skip))
            return
        chosen, logs = None, None
        if deferred:
            from release_tasks.stages.prepare import begin_release

            with current.progress() as emit:
                chosen = begin_release(
                    current.settings, release_id, first=first, emit=emit, notices=current.notifications
                )
            # An id that was not typed has claimed the folder of its logs.
            logs = current.pipeline.logs / chosen if release_id is None else None
        else:
            from release_tasks.service.application import require_printable

            require_printable(current.settings)  # as the prepare does that follows the other preflight
        run = run_gates(current, chosen, words_flag(only), words_flag(skip), logs, first=first)
        record(ctx, "preflight", (run, (health_url, strict, first)))
        if junit_file:
            _write_junit(run, junit_file)
        if not deferred:
            answer_preflight(current, run)


@stage(
    pre=[call(preflight, deferred=True)],
    shares=_SHARED,
    help={
        "health_url": _HEALTH_HELP,
        "release_id": "The id of the release; generated from version and time when left out.",
        "retention": "Retain this many release snapshots instead of release.retention.",
        "junit": _JUNIT_HELP,
        "strict": _STRICT_HELP,
        "first": "The first deployment: the service is not asked, and required assets may be absent.",
    },
)
def prepare(
    ctx: Context,
    health_url: str | None = None,
    release_id: str | None = None,
    retention: str | None = None,
    junit: str | None = None,
    strict: bool = False,
    first: bool = False,
    json: bool = False,
) -> None:
    """Write the manifest of a release and take a verified snapshot; exit 1 when a gate blocks it."""
    with session(ctx, json) as current:
        _apply_flags(current, health_url, strict, retention)
        junit_file = output_flag(current.settings, "junit", junit) if junit else None
        if current.is_dry:
            _show_dry_prepare(current)
            return
        run = _preflight_of(ctx, (health_url, strict, first))
        if junit_file:
            _write_junit(run, junit_file)
        from release_tasks.report.answers import show_manifest
        from release_tasks.stages.prepare import prepare_release

        with current.progress() as emit:
            manifest = prepare_release(
                current.settings, preflight=run, release_id=release_id, emit=emit, notices=current.notifications
            )
        record_release(ctx, manifest)
        current.answer(manifest, lambda screen: show_manifest(screen, manifest))
        current.fail_unless(manifest.status == "ready")


@stage(
    help={
        "snapshot": "The snapshot to restore; the latest release snapshot when left out.",
        "health_url": _HEALTH_HELP,
        "restart_command": "Start the service with this instead of release.restart.command.",
        "plan": "Show exactly what would change, and change nothing.",
        "without_safety": "Take no safety snapshot, for a disk without space: this rollback cannot be undone.",
        "force": "Restore even if the snapshot is already live, or cannot be verified because an older tool took it.",
        "unverified": "Restore even if an event of the audit log or a signature is missing; no digest may differ.",
        "wait": "Wait this long for the lock of another run, e.g. 10m.",
        "lock_wait": "Wait this long for locks of the service on databases, instead of release.lock_wait.",
    },
)
def rollback(
    ctx: Context,
    snapshot: str | None = None,
    health_url: str | None = None,
    restart_command: str | None = None,
    plan: bool = False,
    force: bool = False,
    wait: str | None = None,
    lock_wait: str | None = None,
    without_safety: bool = False,
    unverified: bool = False,
    json: bool = False,
) -> None:
    """Restore the latest or a given snapshot completely, restart, check health, and record the result."""
    with session(ctx, json) as current:
        from release_tasks.report.answers import show_outcome
        from release_tasks.stages.rollback.engine import roll_back

        current.settings = with_flags(
            current.settings,
            health_url=health_url,
            restart_command=restart_command,
            lock_wait=duration_flag("lock-wait", lock_wait),
        )
        given: dict[str, Any] = {
            "snapshot_id": snapshot,
            "force": force,
            "wait": duration_flag("wait", wait) or 0.0,
            "without_safety": without_safety,
            "unverified": unverified,
        }
        if snapshot is None:
            given["release_id"] = prepared_release(ctx)
        if plan or current.is_dry:
            _show_plan(current, given)
            return
        with current.progress() as emit:
            outcome = roll_back(current.settings, **given, emit=emit, notices=current.notifications)
        record_rollback(ctx, outcome)
        current.answer(outcome, lambda screen: show_outcome(screen, outcome))
        current.fail_unless(outcome.status != "failed")


@stage(
    help={
        "wait": "Wait this long for a rollback that has not finished its swap, e.g. 10m; default: 1m.",
        "unverified": "Complete a rollback even if an event of the audit log or a signature is missing.",
    }
)
def recover(ctx: Context, wait: str | None = None, unverified: bool = False, json: bool = False) -> None:
    """Finish or undo an interrupted rollback, remove leftovers; fast, no effect when there is nothing to recover."""
    with session(ctx, json) as current:
        from release_tasks.stages.rollback.recovery import GATE_SECONDS, recover

        seconds = duration_flag("wait", wait)
        with current.progress() as emit:
            report = recover(
                current.settings,
                wait=GATE_SECONDS if seconds is None else seconds,
                look_only=current.is_dry,
                unverified=unverified,
                emit=emit,
                notices=current.notifications,
            )
        current.answer(report, lambda screen: screen.verdict(report.status, report.detail))


@stage(help={"limit": "Show this many of the latest releases and snapshots."})
def status(ctx: Context, limit: str = "10", json: bool = False) -> None:
    """Show releases, snapshots, the last rollback and the lock holder."""
    with session(ctx, json) as current:
        from release_tasks.archive.status import release_status
        from release_tasks.report.status import overview, show_overview

        count = number_flag("limit", limit)
        found = release_status(current.settings)
        document = overview(current.settings, count, found)
        current.answer(document, lambda screen: show_overview(screen, found, document))


@stage(help={"before": "The id of the earlier release.", "after": "The id of the later release."})
def diff(ctx: Context, before: str, after: str, json: bool = False) -> None:
    """Show what differs between two releases: version, commit, gates, configuration, schema, rows, sizes."""
    with session(ctx, json) as current:
        from release_tasks.archive.diff import compare_releases

        found = compare_releases(current.settings, before, after)
        current.answer(
            found,
            lambda screen: _show_differences(screen, found),
            status="different" if found.differences else "equal",
        )


def _show_differences(screen: Screen, found: Comparison) -> None:
    rows = [(each.where, each.what, each.how, each.before or "", each.after or "") for each in found.differences]
    screen.table(("WHERE", "SUBJECT", "CHANGE", "BEFORE", "AFTER"), rows)
    if not rows:
        screen.line(f"No recorded value of {found.before} and {found.after} differs.")
    for note in found.notes:
        screen.note(note)


@stage(help={"snapshot": "Verify only this snapshot."})
def verify(ctx: Context, snapshot: str | None = None, json: bool = False) -> None:
    """Verify every snapshot: digests, databases, audit events, statements; exit 1 when one differs or is missing."""
    with session(ctx, json) as current:
        from release_tasks.report.answers import show_verdicts
        from release_tasks.stages.verify import verify_snapshots

        with current.progress() as emit:
            found = verify_snapshots(current.settings, snapshot, emit=emit)
        current.answer(found, status="verified" if found.is_good else "damaged")
        if not current.as_json:
            show_verdicts(current.screen, found.snapshots, found.attestations)
            if not found.snapshots:
                current.screen.line(f"There are no snapshots yet. Take one: {typed('release.prepare')}")
        current.fail_unless(found.is_good)


@stage(help={"limit": "Show this many of the latest events."})
def audit(ctx: Context, limit: str = "20", json: bool = False) -> None:
    """Verify the chain of the audit log and show its latest events; exit 1 when it is broken."""
    with session(ctx, json) as current:
        from release_tasks.stages.verify import verify_audit

        answer_audit(current, limit, lambda: verify_audit(current.settings))


def answer_audit(current: Session, limit: str, verify: Callable[[], AuditVerdict]) -> None:
    """Answer with the latest events of the log that ``verify`` reads, and end with 1 when its chain is broken."""
    from release_tasks.report.answers import audit_document, show_audit

    count = number_flag("limit", limit)
    verdict = verify()
    current.answer(audit_document(verdict, count), lambda screen: show_audit(screen, verdict, count))
    current.fail_unless(verdict.intact)


def run_gates(
    current: Session,
    release_id: str | None,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    logs: Path | None = None,
    *,
    first: bool = False,
) -> PreflightRun:
    """Run gates with progress on stderr, for ``gate.*`` and ``release.preflight``."""
    from release_tasks.stages.preflight.engine import run_preflight

    with current.progress() as emit:
        return run_preflight(
            current.settings,
            release_id=release_id,
            log_directory=logs,
            only=only or [],
            skip=skip or [],
            first=first,
            emit=emit,
        )


def answer_preflight(current: Session, run: PreflightRun) -> None:
    """Answer with a preflight that no release follows, and end with 1 when it did not pass."""
    from release_tasks.core.codec import encode
    from release_tasks.report.answers import show_preflight

    word = "passed" if run.report.passed else "failed"
    document = {"status": word, **encode(run.report), "logDirectory": str(run.log_directory)}
    current.answer(document, lambda screen: show_preflight(screen, run.report))
    current.fail_unless(run.report.passed)


def _apply_flags(current: Session, health_url: str | None, strict: bool, retention: str | None) -> None:
    current.settings = with_flags(
        current.settings,
        health_url=health_url,
        strict=strict or None,
        retention=None if retention is None else number_flag("retention", retention),
    )


def _preflight_of(ctx: Context, given: tuple[str | None, bool, bool]) -> PreflightRun:
    """Return the preflight that ran before; raises UsageError if it ran with other flags than ``given``."""
    recorded = cast("tuple[PreflightRun, tuple[str | None, bool, bool]] | None", recall(ctx, "preflight"))
    if recorded is None:
        raise UsageError("release.preflight must run before release.prepare, as its pre-task.")
    run, used = recorded
    if used != given:
        hint = "" if runs_under_stage_executor(ctx) else f" Add this to invoke.yaml: {_EXECUTOR_LINE}"
        raise UsageError(
            f"release.prepare was given --health-url {given[0]}, --strict {given[1]} and --first {given[2]}, but its "
            f"gates ran with {used[0]}, {used[1]} and {used[2]}, because Invoke's own executor does not pass flags "
            f"on.{hint}"
        )
    return run


def _write_junit(run: PreflightRun, path: Path) -> None:
    from release_tasks.core.durable import write_atomic
    from release_tasks.report.junit import junit_xml

    write_atomic(path, junit_xml(run.report, "release.preflight"), mode=0o644)


def _show_dry_gates(current: Session, only: list[str], skip: list[str]) -> None:
    names = [name for name in current.settings.release.gates if (not only or name in only) and name not in skip]
    would = f"Would run the gates: {', '.join(names) or 'none'}"
    current.answer({"status": "dry", "gates": names}, lambda screen: screen.line(would))


def _show_dry_prepare(current: Session) -> None:
    from release_tasks.stages.stage import require_assets

    require_assets(current.settings)
    assets = {key: str(asset.path) for key, asset in current.settings.release.assets.items()}
    current.answer({"status": "dry", "assets": assets})
    if not current.as_json:
        current.screen.line("Would capture, after every gate has passed:")
        for key, path in assets.items():
            current.screen.note(f"{key}: {path}")


def _show_plan(current: Session, given: dict[str, Any]) -> None:
    from release_tasks.stages.rollback.plan import plan_rollback

    with current.progress() as emit:
        plan = plan_rollback(current.settings, **given, emit=emit)
    current.answer(plan, status="planned")
    if not current.as_json:
        current.screen.verdict("planned", f"rollback to {plan.snapshot_id}; nothing was changed")
        current.screen.table(
            ("ASSET", "ACTION", "REASON"), [(change.key, change.action, change.detail) for change in plan.changes]
        )
        current.screen.note(*plan.diagnostics)


collection = Collection("release")
for _task in (
    preflight,
    prepare,
    watch,
    rollback,
    recover,
    drill,
    diagnose,
    status,
    diff,
    verify,
    extract,
    audit,
    report,
):
    collection.add_task(_task)
