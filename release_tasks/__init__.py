"""Carry a stateful service through a release and safely back: as Invoke tasks, or from a program of your own.

``from release_tasks import ns`` in a tasks.py gives a project every task of the suite. The stages behind the tasks are
functions here, with the records that they return and the errors that they raise; docs/library.md shows how to use them.
Everything is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from release_tasks.core.version import __version__

if TYPE_CHECKING:
    from invoke import Collection

    from release_tasks.archive.diff import Comparison
    from release_tasks.archive.status import ReleaseStatus
    from release_tasks.archive.verify import SnapshotVerdict
    from release_tasks.config.schema import Settings
    from release_tasks.core.audit import AuditVerdict
    from release_tasks.core.errors import (
        ConfigError,
        ExitCode,
        Interrupted,
        LockHeld,
        StageError,
        StageFailed,
        UsageError,
    )
    from release_tasks.core.events import Emit, Event
    from release_tasks.core.interrupt import interruptible
    from release_tasks.core.records import (
        Check,
        HealthReport,
        Manifest,
        PreflightReport,
        RollbackOutcome,
        RollbackState,
        SnapshotMetadata,
    )
    from release_tasks.stages.diagnose import Diagnosis, Signals
    from release_tasks.stages.drill.outcome import DrillOutcome
    from release_tasks.stages.notifications.sending import Notices
    from release_tasks.stages.observing import watch_release
    from release_tasks.stages.preflight.engine import PreflightRun
    from release_tasks.stages.preparing import begin_release, prepare_release, run_preflight
    from release_tasks.stages.reading import (
        Verification,
        compare_releases,
        diagnose_service,
        release_status,
        verify_audit,
        verify_snapshots,
    )
    from release_tasks.stages.rehearsing import run_drill
    from release_tasks.stages.restoring import plan_rollback, recover, roll_back
    from release_tasks.stages.rollback.plan import RollbackPlan
    from release_tasks.stages.rollback.recovery import RecoveryReport
    from release_tasks.stages.watch.watching import WatchReport
    from release_tasks.tasks.flags import with_flags
    from release_tasks.tasks.project import load_project

    ns: Collection

# Where each name is: the same as above, for when it is asked for. No name here is that of a module of this package,
# which would stand in its place once it is imported.
_HOMES = {
    "release_tasks.core.audit": ("AuditVerdict",),
    "release_tasks.archive.diff": ("Comparison",),
    "release_tasks.config.schema": ("Settings",),
    "release_tasks.stages.diagnose": ("Diagnosis", "Signals"),
    "release_tasks.stages.drill.outcome": ("DrillOutcome",),
    "release_tasks.core.errors": (
        "ConfigError", "ExitCode", "Interrupted", "LockHeld", "StageError", "StageFailed", "UsageError",
    ),
    "release_tasks.core.events": ("Emit", "Event"),
    "release_tasks.core.interrupt": ("interruptible",),
    "release_tasks.stages.notifications.sending": ("Notices",),
    "release_tasks.stages.preflight.engine": ("PreflightRun",),
    "release_tasks.tasks.flags": ("with_flags",),
    "release_tasks.tasks.project": ("load_project",),
    "release_tasks.core.records": (
        "Check", "HealthReport", "Manifest", "PreflightReport", "RollbackOutcome", "RollbackState", "SnapshotMetadata",
    ),
    "release_tasks.archive.status": ("ReleaseStatus",),
    "release_tasks.stages.rollback.plan": ("RollbackPlan",),
    "release_tasks.stages.rollback.recovery": ("RecoveryReport",),
    "release_tasks.archive.verify": ("SnapshotVerdict",),
    "release_tasks.stages.observing": ("watch_release",),
    "release_tasks.stages.preparing": ("begin_release", "prepare_release", "run_preflight"),
    "release_tasks.stages.reading": (
        "Verification", "compare_releases", "diagnose_service", "release_status", "verify_audit", "verify_snapshots",
    ),
    "release_tasks.stages.rehearsing": ("run_drill",),
    "release_tasks.stages.restoring": ("plan_rollback", "recover", "roll_back"),
    "release_tasks.stages.watch.watching": ("WatchReport",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AuditVerdict",
    "Check",
    "Comparison",
    "ConfigError",
    "Diagnosis",
    "DrillOutcome",
    "Emit",
    "Event",
    "ExitCode",
    "HealthReport",
    "Interrupted",
    "LockHeld",
    "Manifest",
    "Notices",
    "PreflightReport",
    "PreflightRun",
    "RecoveryReport",
    "ReleaseStatus",
    "RollbackOutcome",
    "RollbackPlan",
    "RollbackState",
    "Settings",
    "Signals",
    "SnapshotMetadata",
    "SnapshotVerdict",
    "StageError",
    "StageFailed",
    "UsageError",
    "Verification",
    "WatchReport",
    "__version__",
    "begin_release",
    "compare_releases",
    "diagnose_service",
    "interruptible",
    "load_project",
    "ns",
    "plan_rollback",
    "prepare_release",
    "recover",
    "release_status",
    "roll_back",
    "run_drill",
    "run_preflight",
    "verify_audit",
    "verify_snapshots",
    "watch_release",
    "with_flags",
]


def __getattr__(name: str) -> Any:
    # Built on first use: the gateway's processes import this package too, and have no need of Invoke.
    if name == "ns":
        from release_tasks.tasks.suite import suite

        return suite()
    if name in _HOME_OF:
        import importlib

        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
