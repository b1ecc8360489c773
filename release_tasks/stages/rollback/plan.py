"""The plan of a rollback: the change of each asset, and whether the snapshot is live already."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.capacity import capture_needs, restore_needs, shortages
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
from release_tasks.stages.rollback.amendment import covers_pairing, find_amended, plan_amendment
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.stage import require_assets

__all__ = [
    "AssetChange",
    "InPlace",
    "RollbackPlan",
    "find_in_place",
    "notes_on_safety",
    "plan_changes",
    "plan_rollback",
]


_SAFETY = "the safety copy"


@frozen(kw_only=True)
class AssetChange:
    """The change of one asset. ``is_live_damaged`` means that the live asset is unreadable and replaced completely."""

    key: str
    action: Literal["restore", "remove", "keep"]
    detail: str
    is_live_damaged: bool = False
    exists_live: bool = True


@frozen(kw_only=True)
class RollbackPlan:
    """The changes of all assets, and notes for the operator."""

    snapshot_id: str
    changes: list[AssetChange]
    diagnostics: list[str] = field(factory=list)

    def keys(self, action: str) -> list[str]:
        """Return the keys of the assets with ``action``, in configured order."""
        return [change.key for change in self.changes if change.action == action]


@frozen(kw_only=True)
class InPlace:
    """The target is live since the last restore, so a rollback does not change the data written since.

    ``warnings`` name the assets that could not be examined.
    """

    target: SnapshotMetadata
    warnings: list[str] = field(factory=list)


def plan_rollback(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
) -> RollbackPlan:
    """Return what ``roll_back`` would do with the same arguments; changes nothing, and raises the same errors.

    Verifies the snapshot and compares it with the live state. Temporary copies are removed.
    """
    require_assets(settings)
    emit = shielded(emit)
    pipeline = Pipeline(settings.release.root)
    catalogue = pipeline.catalogue
    target = catalogue.find(snapshot_id)
    diagnostics = []
    if read_journal(pipeline) is not None:
        diagnostics.append("An interrupted rollback would be completed first (`inv release.recover`).")
    command, url = settings.release.restart.command, settings.release.health.url
    diagnostics.append(
        f"Then it would restart the service with: {command}" if command else "No restart command is set."
    )
    diagnostics.append(f"Then it would check health at {url}." if url else "No health URL is set.")
    if legacy.is_legacy(target):
        note = f"{target.snapshot_id} was taken by an older tool and has no digests: "
        note += "its content would first be copied into a new snapshot." if force else "it needs --force."
        if covers_pairing(settings):
            note += " Pairing approvals that were revoked since would be removed."
        return RollbackPlan(snapshot_id=target.snapshot_id, changes=[], diagnostics=[*diagnostics, note])
    emit(StepBegan("verify", target.snapshot_id))
    require_intact(catalogue, target, emit)
    _require_space(settings, pipeline, target.snapshot_id)
    scratch = catalogue.store.partial_path("preview")
    with run_lock(pipeline.root, "release.rollback --plan", wait):
        emit(StepBegan("compare"))
        remove_tree(scratch)
        try:
            os.makedirs(scratch / "assets", 0o700)
            live = {
                key: capture_asset(key, asset, scratch, emit=emit, look_only=True)
                for key, asset in settings.release.assets.items()
            }
        finally:
            remove_tree(scratch)
    amendment = plan_amendment(settings, pipeline, target)
    restored = evolve(amendment.amended(), snapshot_id=target.snapshot_id)
    plan = plan_changes(restored, settings.release.assets, live)
    diagnostics += amendment.diagnostics + _shortages(settings, pipeline, target, plan.keys("restore"))
    diagnostics += [
        f"{key}: the safety snapshot would contain a plain copy. {record.plugin_problem}"
        for key, record in live.items()
        if record.plugin_problem is not None
    ]
    in_place = find_amended(pipeline, amendment)
    if in_place and not force and find_in_place(settings, pipeline, in_place):
        diagnostics.append(
            "This snapshot was restored last, and no release was prepared since: while the service is healthy, a "
            "rollback is a noop and does not change its data. --force restores anyway."
        )
    return evolve(plan, diagnostics=diagnostics + plan.diagnostics)


def _shortages(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, restored: list[str]) -> list[str]:
    """Return the limits that a restore of the assets ``restored`` would exceed, one sentence each."""
    folder, assets = pipeline.catalogue.path(target.snapshot_id), settings.release.assets
    safety = capture_needs(pipeline.catalogue.store.folder, assets, _SAFETY)
    restore = restore_needs(target, folder, {key: assets[key] for key in restored})
    return [f"{problem} The rollback would fail and change nothing." for problem in shortages([*safety, *restore])]


def _require_space(settings: Settings, pipeline: Pipeline, snapshot_id: str) -> None:
    """Raise StageFailed when a copy of the live state does not fit into the pipeline folder."""
    problems = shortages(capture_needs(pipeline.catalogue.store.folder, settings.release.assets, _SAFETY))
    if problems:
        raise StageFailed(
            f"{' '.join(problems)} Nothing was changed. Free some space, or restore without a safety copy: "
            f"inv release.rollback --snapshot {snapshot_id} --without-safety"
        )


def find_in_place(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> InPlace | None:
    """Return ``target`` as in place if it was restored last and is still live; else None.

    Files and folders must equal the snapshot. Databases and assets of plugins only have to be sound, because the
    service writes to them.
    """
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id != target.snapshot_id or pipeline.was_prepared_since(state.lineage):
        return None
    warnings: list[str] = []
    # Cheap kinds first: usually a file differs, and then the databases need not be read.
    for key, asset in sorted(settings.release.assets.items(), key=lambda item: item[1].kind.state_check_cost):
        if (record := target.asset(key)) is None:
            continue
        scratch = pipeline.catalogue.store.partial_path(f"examined_{secrets.token_hex(6)}")
        soundness = asset.kind.is_sound(asset, record, scratch)
        if not soundness.is_sound:
            return None
        warnings += [soundness.issue] if soundness.issue else []
    return InPlace(target=target, warnings=warnings)


def plan_changes(
    target: SnapshotMetadata, assets: Mapping[str, AssetConfig], live: Mapping[str, AssetRecord]
) -> RollbackPlan:
    """Compare the live records with the records of the snapshot.

    Raises StageFailed when the kind of an asset has changed, or when the snapshot contains only its remains.
    """
    changes: list[AssetChange] = []
    diagnostics: list[str] = []
    for key, asset in assets.items():
        record = target.asset(key)
        if record is None:
            changes.append(AssetChange(key=key, action="keep", detail="not in this snapshot, unchanged"))
            diagnostics.append(f"{key}: snapshot {target.snapshot_id} does not contain it; it stays unchanged.")
            continue
        if not asset.takes(record):
            raise StageFailed(
                f"Asset {key} is configured as {asset.kind.name}, "
                f"but snapshot {target.snapshot_id} contains a {record.kind}."
            )
        if record.damaged:
            raise StageFailed(
                f"Snapshot {target.snapshot_id} contains only remains of asset {key}, which was damaged; "
                "choose another snapshot, or repair the remains manually."
            )
        changes.append(_change(key, record, live[key]))
        diagnostics += _notes(record, asset) + kind_of(record).capture_notes(record)
    for record in target.assets:
        if record.key not in assets:
            diagnostics.append(f"{record.key}: in the snapshot, but no longer in release.assets; not restored.")
    return RollbackPlan(snapshot_id=target.snapshot_id, changes=changes, diagnostics=diagnostics)


def notes_on_safety(safety: SnapshotMetadata) -> list[str]:
    """Return notes on the safety snapshot: the assets that their plugin could not capture."""
    return [
        f"{record.key}: {safety.snapshot_id} contains a plain copy. {record.plugin_problem}"
        for record in safety.assets
        if record.plugin_problem is not None
    ]


def _notes(record: AssetRecord, asset: AssetConfig) -> list[str]:
    if record.plugin_problem is not None:
        reason = record.plugin_problem.rstrip(".")
        return [f"{record.key}: this is a plain copy, which may end in the middle of a record: {reason}."]
    if None not in (record.plugin, asset.plugin) and record.plugin != asset.plugin:
        return [
            f"{record.key}: plugin {record.plugin} took this copy, but {asset.plugin} is configured now; "
            "the copy is restored unchanged."
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
        return AssetChange(key=key, action="restore", detail="damaged, replaced completely", is_live_damaged=True)
    if live.left_out:
        return AssetChange(
            key=key, action="restore", detail=f"contains entries that cannot be captured: {', '.join(live.left_out)}"
        )
    difference = kind_of(record).compare(record, live)
    if not difference:
        return AssetChange(key=key, action="keep", detail="equal to the snapshot")
    return AssetChange(key=key, action="restore", detail=difference)
