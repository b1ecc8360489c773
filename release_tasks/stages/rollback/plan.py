"""The plan of a rollback: the change of each asset."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.capture import capture_asset, survey_asset
from release_tasks.archive.looking import look_folder
from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.verify import require_intact
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.findings import Drift
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.protection import replace_blockers
from release_tasks.assets.stored import owner_difference, stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.lock import current_holder
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.redact import Redactor
from release_tasks.core.typed import typed
from release_tasks.core.units import show_duration
from release_tasks.service.request import shown_endpoint
from release_tasks.stages.first_deployment import notes_on_rollback_to_first
from release_tasks.stages.preflight.missing import missing_restart
from release_tasks.stages.rollback.amendment import covers_pairing, find_amended, plan_amendment
from release_tasks.stages.rollback.in_place import describe_changes, find_changes, find_last_restore, removed_rows
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.rollback.safety import WITHOUT_SAFETY, find_shortages, list_names, notes_on_gaps
from release_tasks.stages.rollback.stores import require_own_stores
from release_tasks.stages.stage import require_assets

__all__ = ["AssetChange", "RollbackPlan", "notes_on_verdict", "plan_changes", "plan_rollback", "snapshot_before"]


@frozen(kw_only=True)
class AssetChange:
    """The change of one asset. ``is_live_damaged`` means that the live asset is unreadable and replaced completely.

    ``has_gaps``: the safety copy lacks a part of the live asset.
    """

    key: str
    action: Literal["restore", "remove", "keep"]
    detail: str
    is_live_damaged: bool = False
    exists_live: bool = True
    has_gaps: bool = False


@frozen(kw_only=True)
class RollbackPlan:
    """The changes of all assets, and notes for the operator.

    ``removed_rows`` has the number of rows that a restore removes, by asset and table.
    """

    snapshot_id: str
    changes: list[AssetChange]
    diagnostics: list[str] = field(factory=list)
    removed_rows: dict[str, dict[str, int]] = field(factory=dict)

    @property
    def has_changes(self) -> bool:
        """Whether any asset is restored or removed."""
        return any(change.action != "keep" for change in self.changes)

    def keys(self, action: str) -> list[str]:
        """Return the keys of the assets with ``action``, in configured order."""
        return [change.key for change in self.changes if change.action == action]


def plan_rollback(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    release_id: str | None = None,
    force: bool = False,
    wait: float = 0.0,
    without_safety: bool = False,
    unverified: bool = False,
    emit: Emit = ignore,
) -> RollbackPlan:
    """Return what ``roll_back`` would do with the same arguments; changes nothing, and raises the same errors.

    Verifies the snapshot and compares it with the live state. Takes no lock, so ``wait`` has no effect. Copies are
    made outside the live state, and removed.
    """
    require_assets(settings)
    emit = shielded(emit)
    pipeline = Pipeline(settings.release.root)
    require_own_stores(settings)
    catalogue = pipeline.catalogue
    target = catalogue.find(snapshot_id or snapshot_before(settings, pipeline, release_id, unverified=unverified))
    diagnostics = catalogue.note_on(snapshot_id, target)
    if release_id is not None and (newer := pipeline.newer_than(release_id)):
        diagnostics.append(f"Release {newer} was prepared after {release_id}, so this rollback would be refused.")
    if read_journal(pipeline) is not None:
        diagnostics.append(f"An interrupted rollback would be completed first (`{typed('release.recover')}`).")
    diagnostics += notes_on_rollback_to_first(settings, pipeline, target, is_plan=True) or _notes_on_service(settings)
    requested = snapshot_id or target.snapshot_id
    provenance, words = Provenance(settings, pipeline), ["--plan", "--snapshot", requested, "--unverified"]
    is_default = snapshot_id is None and release_id is None and not unverified
    if legacy.is_legacy(target):
        command = typed("release.rollback", *words, "--force")
        diagnostics += provenance.require(target, command=command, unverified=unverified)
        if is_default:
            provenance.require_latest(target)
        diagnostics.append(_note_on_legacy(settings, target, is_forced=force))
        return RollbackPlan(snapshot_id=target.snapshot_id, changes=[], diagnostics=diagnostics)
    emit(StepBegan("verify", target.snapshot_id))
    require_intact(catalogue, target, emit)
    command = typed("release.rollback", *words)
    diagnostics += provenance.require(target, requested=snapshot_id, command=command, unverified=unverified)
    if is_default:
        provenance.require_latest(target)
    if (holder := current_holder(pipeline.root)) is not None:
        diagnostics.append(f"The state may change while this plan is read: another command is running, {holder}.")
    amendment = plan_amendment(settings, pipeline, target)
    restored = evolve(amendment.amended(), snapshot_id=target.snapshot_id)
    emit(StepBegan("compare"))
    folder, assets = catalogue.path(target.snapshot_id), settings.release.assets
    drifts: Mapping[str, Drift] = {}
    if without_safety:
        diagnostics.append(WITHOUT_SAFETY)
        live = {key: survey_asset(key, asset, look_only=True) for key, asset in assets.items()}
        plan = plan_changes(restored, folder, assets, live)
    else:
        with look_folder(settings, assets.values()) as scratch:
            os.mkdir(scratch / "assets", 0o700)
            live = {key: capture_asset(key, asset, scratch, emit=emit, look_only=True) for key, asset in assets.items()}
            plan = plan_changes(restored, folder, assets, live)
            drifts = find_changes(pipeline, target, scratch, live.values(), plan.keys("restore"))
    diagnostics += notes_on_gaps(live.values(), "the safety snapshot")
    diagnostics += amendment.diagnostics
    diagnostics += [
        f"{change.key}: the rollback would fail and change nothing. {reason}"
        for change in plan.changes
        if change.action != "keep" and (record := restored.asset(change.key)) is not None
        for reason in replace_blockers(
            assets[change.key].path, record, stored_path(folder, record), must_exchange=change.has_gaps
        )
    ]
    diagnostics += find_shortages(settings, pipeline, target, plan.keys("restore"), without_safety=without_safety)
    diagnostics += notes_on_verdict(pipeline, target, has_changes=plan.has_changes)
    parents = Parents(settings.project, assets)
    diagnostics += [f"The rollback would fail and change nothing. {reason}" for reason in parents.blockers(target)]
    differences = parents.differences(target).items()
    diagnostics += [f"{folder}: {found}; a rollback restores it." for folder, found in differences]
    in_place = find_amended(pipeline, amendment)
    last = find_last_restore(settings, pipeline, in_place, emit) if in_place and not force else None
    if last is not None and last.is_in_place:
        diagnostics.append(
            "This snapshot was restored last, and no release was prepared since: "
            f"{'while the service is healthy, ' if settings.release.questions else ''}a rollback is a noop and does "
            "not change its data. --force restores anyway."
        )
        diagnostics += last.notes
    else:
        diagnostics += describe_changes(drifts)
    return evolve(plan, diagnostics=diagnostics + plan.diagnostics, removed_rows=removed_rows(drifts))


def plan_changes(
    target: SnapshotMetadata, folder: Path, assets: Mapping[str, AssetConfig], live: Mapping[str, AssetRecord]
) -> RollbackPlan:
    """Compare the live records, and the owners of the live state, with the snapshot, whose folder is ``folder``.

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
        changes.append(_change(key, record, live[key], asset, folder))
        diagnostics += _notes(record, asset) + kind_of(record).capture_notes(record)
    for record in target.assets:
        if record.key not in assets:
            diagnostics.append(f"{record.key}: in the snapshot, but no longer in release.assets; not restored.")
    return RollbackPlan(snapshot_id=target.snapshot_id, changes=changes, diagnostics=diagnostics)


def snapshot_before(settings: Settings, pipeline: Pipeline, release_id: str | None, *, unverified: bool) -> str | None:
    """Return the snapshot of the state before a release; None without a release.

    Raises UsageError, and StageFailed when the manifest of the release cannot be read or does not agree with its
    records; with ``unverified`` only for a contradiction.
    """
    if release_id is None:
        return None
    manifest = pipeline.get_manifest(release_id)
    if manifest.snapshot is None:
        raise UsageError(f"Release {release_id} is {manifest.status} and has no snapshot. Choose one with --snapshot.")
    Provenance(settings, pipeline).require_release(manifest, may_lack_records=unverified)
    return manifest.snapshot.snapshot_id


def notes_on_verdict(pipeline: Pipeline, target: SnapshotMetadata, *, has_changes: bool) -> list[str]:
    """Return a note for a rollback when ``target`` may be bad and an earlier state is known."""
    with contextlib.suppress(OSError):
        verdicts = pipeline.verdicts()
        if verdicts.is_unjudged(target.snapshot_id):
            equal = "" if has_changes else " equals the live state, and it"
            taken = f"{target.snapshot_id}{equal} was taken after a release that was never judged"
            return [f"{taken}, so it may be bad. {verdicts.sentence}"]
    return []


def _notes_on_service(settings: Settings) -> list[str]:
    """Return what the rollback would do with the service, one sentence a step."""
    hook, redact = settings.release.restart, Redactor.of_process().redact_text
    asked = [
        f"{shown_endpoint(each.url, each.request)}{f' (gate {each.gate})' if each.gate is not None else ''}"
        for each in settings.release.questions
    ]
    notes = []
    if hook.stop is not None:
        limit = show_duration(hook.stop_timeout)
        notes.append(f"First it would stop the service with: {redact(hook.stop)} (for at most {limit})")
    notes.append(
        f"Then it would restart the service with: {redact(hook.command)}"
        if hook.command
        else "No restart command is set."
    )
    if (missing := missing_restart(settings)) is not None:
        notes.append(f"The rollback would fail and change nothing. {missing}.")
    notes.append(
        f"Then it would check health at {', '.join(asked)}."
        if asked
        else "No health URL is set, and no gate with a URL."
    )
    return notes


def _note_on_legacy(settings: Settings, target: SnapshotMetadata, *, is_forced: bool) -> str:
    note = f"{target.snapshot_id} was taken by an older tool and has no digests: "
    note += "its content would first be copied into a new snapshot." if is_forced else "it needs --force."
    if covers_pairing(settings):
        note += " Pairing approvals that were revoked since would be removed."
    return note


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


def _change(key: str, record: AssetRecord, live: AssetRecord, asset: AssetConfig, folder: Path) -> AssetChange:
    if not record.exists:
        if not live.exists:
            return AssetChange(key=key, action="keep", detail="absent, as in the snapshot", exists_live=False)
        has_gaps = bool(live.left_out or live.unstable or live.sha256 is None)
        detail = "did not exist at snapshot time"
        return AssetChange(key=key, action="remove", detail=detail, has_gaps=has_gaps)
    if not live.exists:
        return AssetChange(key=key, action="restore", detail="missing", exists_live=False)
    if live.damaged:
        detail = "damaged, replaced completely"
        return AssetChange(key=key, action="restore", detail=detail, is_live_damaged=True, has_gaps=bool(live.left_out))
    if live.left_out:
        listed = list_names(live.left_out, live.left_out_count or len(live.left_out))
        detail = f"contains entries that cannot be captured: {listed}"
        return AssetChange(key=key, action="restore", detail=detail, has_gaps=True)
    if live.unstable:
        detail = f"contains files that keep changing: {list_names(live.unstable, len(live.unstable))}"
        return AssetChange(key=key, action="restore", detail=detail, has_gaps=True)
    if live.sha256 is None:
        detail = "restored without a comparison and without a safety copy"
        return AssetChange(key=key, action="restore", detail=detail, has_gaps=True)
    difference = kind_of(record).compare(record, live)
    if not difference:
        # The live state, or a file that an amendment added, may have gone.
        with contextlib.suppress(OSError), asset.found() as place:
            difference = owner_difference(record, stored_path(folder, record), place)
    if not difference:
        return AssetChange(key=key, action="keep", detail="equal to the snapshot")
    return AssetChange(key=key, action="restore", detail=difference)
