"""Stage 3: back to a snapshot, and out of an interrupted way there."""

from __future__ import annotations

from release_tasks.config.schema import Settings
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.around import notified, require_assets
from release_tasks.stages.notifications.sending import Notices
from release_tasks.stages.notifications.wording import about_rollback
from release_tasks.stages.rollback import recovery
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import RollbackPlan
from release_tasks.stages.rollback.preview import preview
from release_tasks.stages.rollback.recovery import RecoveryReport

__all__ = ["plan_rollback", "recover", "roll_back"]


def roll_back(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
    notices: Notices | None = None,
) -> RollbackOutcome:
    """Restore a snapshot whole, the newest of a release unless one is named, restart the service and judge its health.

    ``status`` of the outcome is ``restored``, ``noop`` or ``failed``. ``force`` restores once more what is live
    already, and what has no digests; ``wait`` is how many seconds to wait for another run's lock. Raises UsageError for
    a snapshot that does not exist, LockHeld while another run is at work; the live state is whole in each case.
    """
    require_assets(settings)
    request = RollbackRequest(snapshot_id=snapshot_id, force=force, wait=wait)
    with notified(settings, notices, "release.rollback") as sending:
        outcome = rollback(settings, request, emit)
        sending.announce(lambda: about_rollback(settings, outcome))
    return outcome


def plan_rollback(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
) -> RollbackPlan:
    """Say exactly what ``roll_back`` would do with the same arguments, and change nothing; raises what it would."""
    require_assets(settings)
    request = RollbackRequest(snapshot_id=snapshot_id, force=force, wait=wait)
    return preview(settings, request, emit)


def recover(
    settings: Settings, *, look_only: bool = False, emit: Emit = ignore, notices: Notices | None = None
) -> RecoveryReport:
    """Finish or undo what an interrupted run left; quick and harmless when there is nothing to do.

    With ``look_only`` it is said and left alone. Raises StageFailed when neither direction can be completed, LockHeld
    when a rollback that swaps right now takes longer than a minute.
    """
    require_assets(settings)
    if look_only:
        return recovery.pending(settings)
    with notified(settings, notices, "release.recover"):
        return recovery.recover(settings, emit=emit)
