"""What a rollback would change: every configured asset, live against snapshot; and whether that is live already."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.capture import capture_asset
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.kinds import kind_of
from release_tasks.config.schema import Settings
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.lock import run_lock
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.stages.rollback.amendment import covers_pairing, find_amended, foresee
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.stage import require_assets

__all__ = [
    "AssetChange",
    "InPlace",
    "RollbackPlan",
    "find_in_place",
    "plan_changes",
    "plan_rollback",
    "remarks_on_safety",
]


@frozen(kw_only=True)
class AssetChange:
    """What happens to one asset. ``is_live_damaged``: it cannot be read any more and is replaced whole."""

    key: str
    action: Literal["restore", "remove", "keep"]
    detail: str
    is_live_damaged: bool = False
    exists_live: bool = True


@frozen(kw_only=True)
class RollbackPlan:
    """All changes, and what an operator should know besides."""

    snapshot_id: str
    changes: list[AssetChange]
    diagnostics: list[str] = field(factory=list)

    def keys(self, action: str) -> list[str]:
        """Return the assets with one action, in configured order."""
        return [change.key for change in self.changes if change.action == action]


@frozen(kw_only=True)
class InPlace:
    """What the last restore put there is there, so a rollback leaves alone what the service has written since.

    ``doubts`` name what could not be examined.
    """

    target: SnapshotMetadata
    doubts: list[str] = field(factory=list)


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
    target = catalogue.find(snapshot_id)
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


def find_in_place(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> InPlace | None:
    """Return how sure it is that the last restore was of this very snapshot and is still in place; None when not.

    Files and folders must be as recorded. Databases, and what a plugin captures, only have to be sound: what is in them
    is the service's own since then.
    """
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id != target.snapshot_id or pipeline.was_prepared_since(state.lineage):
        return None
    doubts: list[str] = []
    # Most rollbacks find a file that differs, and then no database is read for nothing.
    for key, asset in sorted(settings.release.assets.items(), key=lambda item: item[1].kind.state_check_cost):
        if (record := target.asset(key)) is None:
            continue
        scratch = pipeline.catalogue.store.partial_path(f"examined_{secrets.token_hex(6)}")
        found = asset.kind.is_sound(asset, record, scratch)
        if not found.is_sound:
            return None
        doubts += [found.issue] if found.issue else []
    return InPlace(target=target, doubts=doubts)


def plan_changes(
    target: SnapshotMetadata, assets: Mapping[str, AssetConfig], live: Mapping[str, AssetRecord]
) -> RollbackPlan:
    """Compare the live records with the snapshot's.

    Raises StageFailed when an asset is of another kind now, or when the snapshot holds only remains of it.
    """
    changes: list[AssetChange] = []
    diagnostics: list[str] = []
    for key, asset in assets.items():
        record = target.asset(key)
        if record is None:
            changes.append(AssetChange(key=key, action="keep", detail="not in this snapshot, left as it is"))
            diagnostics.append(f"{key}: snapshot {target.snapshot_id} does not hold it; it is left as it is.")
            continue
        if not asset.takes(record):
            raise StageFailed(
                f"Asset {key} is configured as {asset.kind.name}, "
                f"but snapshot {target.snapshot_id} holds a {record.kind}."
            )
        if record.damaged:
            raise StageFailed(
                f"Snapshot {target.snapshot_id} holds only remains of asset {key}, which was damaged then; "
                "choose another snapshot, or repair the remains by hand."
            )
        changes.append(_change(key, record, live[key]))
        diagnostics += _remarks(record, asset)
    for record in target.assets:
        if record.key not in assets:
            diagnostics.append(f"{record.key}: in the snapshot, but not in release.assets any more; not restored.")
    return RollbackPlan(snapshot_id=target.snapshot_id, changes=changes, diagnostics=diagnostics)


def remarks_on_safety(safety: SnapshotMetadata) -> list[str]:
    """Return what an operator should know of the way back: assets that their plugin could not capture."""
    return [
        f"{record.key}: the copy in {safety.snapshot_id} is a plain one. {record.plugin_problem}"
        for record in safety.assets
        if record.plugin_problem is not None
    ]


def _remarks(record: AssetRecord, asset: AssetConfig) -> list[str]:
    if record.plugin_problem is not None:
        why = record.plugin_problem.rstrip(".")
        return [f"{record.key}: this copy is a plain one and may end in the middle of a record: {why}."]
    if None not in (record.plugin, asset.plugin) and record.plugin != asset.plugin:
        return [
            f"{record.key}: {record.plugin} took this copy, {asset.plugin} is configured now; it is restored as it is."
        ]
    return []


def _change(key: str, record: AssetRecord, live: AssetRecord) -> AssetChange:
    if not record.exists:
        if not live.exists:
            return AssetChange(key=key, action="keep", detail="absent, as in the snapshot", exists_live=False)
        return AssetChange(key=key, action="remove", detail="did not exist at snapshot time")
    if not live.exists:
        return AssetChange(key=key, action="restore", detail="missing", exists_live=False)
    if live.damaged:
        return AssetChange(key=key, action="restore", detail="damaged, replaced whole", is_live_damaged=True)
    if live.left_out:
        return AssetChange(
            key=key, action="restore", detail=f"holds what cannot be captured: {', '.join(live.left_out)}"
        )
    difference = kind_of(record).compare(record, live)
    if not difference:
        return AssetChange(key=key, action="keep", detail="equal to the snapshot")
    return AssetChange(key=key, action="restore", detail=difference)
