"""What a rollback would do, worked out in full and then not done."""

from __future__ import annotations

import os

from attrs import evolve

from release_tasks.archive import legacy
from release_tasks.archive.capture import capture_asset
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.config.schema import Settings
from release_tasks.core.durable import remove_tree
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.lock import run_lock
from release_tasks.stages.rollback.amendment import covers_pairing, find_amended, foresee
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.rollback.plan import RollbackPlan, find_in_place, plan_changes
from release_tasks.stages.stage import require_assets

__all__ = ["plan_rollback"]


def plan_rollback(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
) -> RollbackPlan:
    """Say exactly what ``roll_back`` would do with the same arguments, and change nothing; raises what it would.

    Verifies the snapshot and compares it with the live state; whatever is copied for that is removed again.
    """
    require_assets(settings)
    emit = shielded(emit)
    pipeline = Pipeline(settings.release.root)
    catalogue = pipeline.catalogue
    target = catalogue.latest() if snapshot_id is None else catalogue.get(snapshot_id)
    diagnostics = []
    if read_journal(pipeline) is not None:
        diagnostics.append("An interrupted rollback would be finished first (`inv release.recover`).")
    command, url = settings.release.restart.command, settings.release.health.url
    diagnostics.append(
        f"Then it would restart the service with: {command}" if command else "No restart command is set."
    )
    diagnostics.append(f"Then it would ask health at {url}." if url else "No health URL is set.")
    if legacy.is_legacy(target):
        told = f"{target.snapshot_id} was taken by an older tool and has no digests: "
        told += "its content would be taken over first." if force else "it needs --force."
        if covers_pairing(settings):
            told += " Pairing approvals in it that were revoked since would be left out."
        return RollbackPlan(snapshot_id=target.snapshot_id, changes=[], diagnostics=[*diagnostics, told])
    emit(StepBegan("verify", target.snapshot_id))
    require_intact(catalogue, target, emit)
    scratch = catalogue.store.partial_path("preview")
    with run_lock(pipeline.root, "release.rollback --plan", wait):
        emit(StepBegan("compare"))
        remove_tree(scratch)
        try:
            os.makedirs(scratch / "assets", 0o700)
            live = {
                key: capture_asset(key, asset, scratch, emit=emit, allow_damaged=True)
                for key, asset in settings.release.assets.items()
            }
        finally:
            remove_tree(scratch)
    amendment = foresee(settings, pipeline, target)
    restored = evolve(amendment.amended(), snapshot_id=target.snapshot_id)
    plan = plan_changes(restored, settings.release.assets, live)
    diagnostics += amendment.diagnostics
    diagnostics += [
        f"{key}: the way back would be a plain copy. {record.plugin_problem}"
        for key, record in live.items()
        if record.plugin_problem is not None
    ]
    in_place = find_amended(pipeline, amendment)
    if in_place and not force and find_in_place(settings, pipeline, in_place):
        diagnostics.append(
            "This snapshot was the last one restored and nothing was prepared since: while the service is healthy, a "
            "rollback is a noop and leaves its data alone. --force restores all the same."
        )
    return evolve(plan, diagnostics=diagnostics + plan.diagnostics)
