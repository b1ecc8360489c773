"""Stages 1 and 2: the gates, then the manifest and snapshot of a release."""

from __future__ import annotations

from collections.abc import Sequence

from release_tasks.archive.attestation.signing import signer_of
from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.clock import compact
from release_tasks.core.errors import LockHeld
from release_tasks.core.events import Emit, ignore
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Manifest
from release_tasks.service.application import default_release_id, describe_application
from release_tasks.stages.around import notified, require_assets
from release_tasks.stages.notifications.sending import Notices
from release_tasks.stages.notifications.wording import about_manifest
from release_tasks.stages.preflight import engine
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare, require_new_release_id
from release_tasks.stages.rollback.recovery import recover

__all__ = ["begin_release", "prepare_release", "run_preflight"]

_STAGE = "release.prepare"


def run_preflight(
    settings: Settings,
    *,
    release_id: str | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    emit: Emit = ignore,
) -> PreflightRun:
    """Run every gate and return all results, in configured order; ``report.passed`` is the verdict.

    ``only`` and ``skip`` name gates. Logs go by ``release_id``. Raises UsageError for a gate that does not exist.
    """
    chosen = release_id or f"preflight-{compact()}"
    return engine.run_preflight(settings, release_id=chosen, only=only, skip=skip, emit=emit)


def begin_release(
    settings: Settings, release_id: str | None = None, *, emit: Emit = ignore, notices: Notices | None = None
) -> str:
    """Return the id of a release that can be prepared now, made of version and time when none is given.

    Finishes first what an interrupted run left. Raises UsageError for an id that is taken or a signing key that cannot
    be used, LockHeld while another run is at work, StageFailed when the state cannot be made whole.
    """
    with notified(settings, notices, _STAGE, release_id):
        return _begin(settings, release_id, emit)


def prepare_release(
    settings: Settings,
    *,
    preflight: PreflightRun | None = None,
    release_id: str | None = None,
    emit: Emit = ignore,
    notices: Notices | None = None,
) -> Manifest:
    """Publish the manifest of a release, with a verified snapshot of the state when nothing blocks it.

    Without ``preflight`` the gates are run first; ``status`` of the manifest is ``ready`` or ``blocked``. Raises
    UsageError for an id that is taken, LockHeld while another run is at work, StageFailed when the state cannot be made
    whole or the pipeline folder not be written.
    """
    with notified(settings, notices, _STAGE, release_id) as sending:
        if preflight is None:
            chosen = _begin(settings, release_id, emit)
            preflight = run_preflight(settings, release_id=chosen, emit=emit)
        manifest = prepare(settings, preflight.report, release_id or preflight.release_id, emit)
        sending.announce(lambda: about_manifest(settings, manifest))
    return manifest


def _begin(settings: Settings, release_id: str | None, emit: Emit) -> str:
    require_assets(settings)
    holder = current_holder(settings.release.root)
    if holder is not None:  # known before the gates have run for ten minutes, not after
        raise LockHeld(f"Another run is at work: {holder}. When it is done, again: inv release.prepare")
    recover(settings, _STAGE, emit)  # gates must not look at a state that is half old, half new
    chosen = release_id or default_release_id(describe_application(settings))
    require_new_release_id(Pipeline(settings.release.root), chosen)
    signer_of(settings)
    return chosen
