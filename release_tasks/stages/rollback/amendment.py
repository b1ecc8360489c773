"""Amendment of a snapshot with pairing stores, so that a rollback does not approve a revoked sender again.

The rollback restores a new snapshot that is derived from the target: its lists of approvals lack the revoked senders,
and its pairing log is the live log. The new snapshot is restored like any other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.archive.attestation.signing import available_signer
from release_tasks.archive.capture import CaptureRequest
from release_tasks.archive.derive import Replacement, StoredFile, derive_snapshot, stored_bytes, with_replacements
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.seal import snapshot_digest
from release_tasks.archive.verify import verify_snapshot
from release_tasks.config.schema import Settings
from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import canonical_bytes, excerpt, excerpt_line
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageError
from release_tasks.core.records import AuditAnchor, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.dialects import NO_PERSONS, ApprovedDocument
from release_tasks.pairing.restoring import (
    EMPTIED,
    RETURNED,
    WITHDRAWN,
    History,
    RestoredStore,
    read_history,
    restore_store,
)
from release_tasks.pairing.store import Store, StoreUnusable
from release_tasks.stages.rollback.stores import RestoredTree, covered_channels

__all__ = ["Amendment", "amend_target", "covers_pairing", "find_amended", "plan_amendment"]

_MAX_LISTED = 5


def covers_pairing(settings: Settings) -> bool:
    """Return whether an asset contains a pairing store or the pairing log, so that a rollback replaces it."""
    return bool(covered_channels(settings))


@frozen(kw_only=True)
class Amendment:
    """The planned changes of a snapshot, and the resulting approvals of each channel."""

    target: SnapshotMetadata
    replacements: dict[StoredFile, Replacement] = field(factory=dict)
    stores: dict[Channel, RestoredStore] = field(factory=dict)
    diagnostics: list[str] = field(factory=list)

    @property
    def needs_events(self) -> bool:
        """Whether the rollback changes approvals, so that events have to be written."""
        return any(s.withdrawn or s.returned or s.is_emptied for s in self.stores.values())

    def amended(self) -> SnapshotMetadata:
        """Return the metadata of the amended snapshot, which may not exist yet; its id is derived from its content."""
        if not self.replacements:
            return self.target
        records = with_replacements(self.target, self.replacements)
        digest = snapshot_digest(records)
        suffix = sha256_bytes(canonical_bytes([self.target.snapshot_id, digest]))[:12]
        snapshot_id = f"amended_{self.target.snapshot_id[:80]}_{suffix}"
        return evolve(self.target, snapshot_id=snapshot_id, digest=digest, assets=records)


def plan_amendment(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> Amendment:
    """Return the amendment of ``target`` that the live stores and their log require now.

    Raises OSError when the live log, which is never rolled back, cannot be read.
    """
    channels = covered_channels(settings)
    if not channels:
        return Amendment(target=target)
    store, folder = Store(settings.pairing.credentials), pipeline.catalogue.path(target.snapshot_id)
    tree = RestoredTree(settings.release.assets, target)
    log_place = tree.place(store.audit.path)
    history = _history(pipeline, store, target, log_place)
    replacements: dict[StoredFile, Replacement] = {}
    stores: dict[Channel, RestoredStore] = {}
    diagnostics: list[str] = []
    for channel in channels:
        place = tree.place(store.approved_path(channel))
        if place is None:
            continue
        path, stored, live = store.approved_path(channel), stored_bytes(folder, target, place), _live(store, channel)
        entries, persons = (live.entries, live.persons) if live is not None else (None, NO_PERSONS)
        restored = restore_store(channel, stored, entries, history, path.name, persons)
        if restored.data != stored:
            replacements[place] = Replacement(data=restored.data, owner=_owner(path))
        stores[channel] = restored
        diagnostics += _diagnostics(channel, restored, history, folder / _relative(target, place))
    if log_place is not None:
        diagnostics.append(f"The pairing log is not rolled back: {store.audit.path}.")
    amendment = Amendment(target=target, replacements=replacements, stores=stores, diagnostics=diagnostics)
    return _with_live_log(amendment, store, log_place, folder)


def _with_live_log(amendment: Amendment, store: Store, place: StoredFile | None, folder: Path) -> Amendment:
    """Replace the log in the snapshot by the current live log."""
    if place is None:
        return amendment
    live = _live_log(store.audit.path)
    others = {other: change for other, change in amendment.replacements.items() if other != place}
    is_equal = live.data == stored_bytes(folder, amendment.target, place)
    return evolve(amendment, replacements=others if is_equal else {**others, place: live})


def find_amended(pipeline: Pipeline, amendment: Amendment) -> SnapshotMetadata | None:
    """Return the amended snapshot, or None if it does not exist yet.

    Also None if events have to be written first: the amended snapshot contains the log.
    """
    if amendment.needs_events:
        return None
    amended = amendment.amended()
    return amended if amended is amendment.target else _existing(pipeline, amended)


def amend_target(
    settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, rollback_id: str
) -> tuple[SnapshotMetadata, list[str]]:
    """Return the snapshot to restore instead of ``target``, and notes for the operator.

    Writes the changed approvals of rollback ``rollback_id`` to the pairing log. The caller must hold the stores. Raises
    StageFailed or OSError; then only the log may have changed.
    """
    amendment = plan_amendment(settings, pipeline, target)
    if amendment.needs_events:
        store = Store(settings.pairing.credentials)
        _write_events(store.audit, amendment, rollback_id)
        # Only the log is read again. The approvals stay as planned: a log that was just created is no history.
        log_place = RestoredTree(settings.release.assets, target).place(store.audit.path)
        amendment = _with_live_log(amendment, store, log_place, pipeline.catalogue.path(target.snapshot_id))
    amended = amendment.amended()
    if amended is target:
        return target, amendment.diagnostics
    existing = _existing(pipeline, amended)
    is_on_record = existing is not None and not Provenance(settings, pipeline).compare_with_log(existing)
    if existing is not None and is_on_record and verify_snapshot(pipeline.catalogue, existing).status == "verified":
        return existing, amendment.diagnostics
    snapshot_id = amended.snapshot_id
    if os.path.lexists(pipeline.catalogue.path(snapshot_id)):
        snapshot_id += f"-{secrets.token_hex(3)}"
    request = CaptureRequest(
        snapshot_id=snapshot_id,
        release_id=target.release_id,
        kind="safety",
        retention_limit=settings.release.retention,
        audit=pipeline.audit.anchor(),
        parents=target.parents or [],
    )
    signer = available_signer(settings)
    return derive_snapshot(pipeline.catalogue, target, amendment.replacements, request, signer), amendment.diagnostics


def _existing(pipeline: Pipeline, amended: SnapshotMetadata) -> SnapshotMetadata | None:
    with contextlib.suppress(StageError):
        found = pipeline.catalogue.get(amended.snapshot_id)
        return found if found.digest == amended.digest else None
    return None


def _history(pipeline: Pipeline, store: Store, target: SnapshotMetadata, log_place: StoredFile | None) -> History:
    stored: AuditAnchor | None = None
    if log_place is not None:
        path = pipeline.catalogue.path(target.snapshot_id) / _relative(target, log_place)
        with contextlib.suppress(OSError):
            stored = AuditLog(path).anchor()
    return read_history(store.audit, stored, _rollbacks_in_effect(pipeline))


def _rollbacks_in_effect(pipeline: Pipeline) -> set[str]:
    """Return the ids of the rollbacks whose snapshot went live and was not undone; empty if the log is broken."""
    verdict = pipeline.audit.verify()
    if not verdict.intact:
        return set()
    rollback_ids = set()
    for event in verdict.events:
        name, status = event.get("event"), event.get("status")
        # A refusal has a rollbackId only when its snapshot was live already.
        if name in ("rollback.finished", "rollback.refused") or (name, status) == ("rollback.recovered", "restored"):
            rollback_ids.add(str(event.get("rollbackId")))
    return rollback_ids


def _owner(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        return info.st_uid, info.st_gid
    return None


def _live(store: Store, channel: Channel) -> ApprovedDocument | None:
    try:
        return store.approved_document(channel)
    except StoreUnusable:
        return None


def _live_log(path: Path) -> Replacement:
    try:
        data, info = AuditLog(path).content()
    except (FileNotFoundError, NotADirectoryError):
        return Replacement(data=None)
    return Replacement(data=data, mode=stat.S_IMODE(info.st_mode), owner=(info.st_uid, info.st_gid))


def _relative(target: SnapshotMetadata, place: StoredFile) -> str:
    record = target.asset(place.key)
    assert record is not None
    return f"{record.relative_path}/{place.inside}" if place.inside else record.relative_path


def _write_events(log: AuditLog, amendment: Amendment, rollback_id: str) -> None:
    for channel, restored in amendment.stores.items():
        changes = [
            (restored.withdrawn, WITHDRAWN, "withdrawn", "removed by a rollback: the snapshot does not contain it"),
            (restored.returned, RETURNED, "granted", "added by a rollback: the snapshot contains it"),
        ]
        fields = {"channel": channel.value, "rollbackId": rollback_id}
        for senders, event, status, detail in changes:
            for sender in senders:
                sender_fields = {**fields, "senderId": excerpt(sender)}
                log.append(
                    event, status=status, detail=detail, snapshot_id=amendment.target.snapshot_id, **sender_fields
                )
        if restored.is_emptied:
            detail = "removed by a rollback: the snapshot contains no usable list of approvals"
            log.append(EMPTIED, status="withdrawn", detail=detail, snapshot_id=amendment.target.snapshot_id, **fields)


def _diagnostics(channel: Channel, restored: RestoredStore, history: History, stored: Path) -> list[str]:
    """Return notes on the changed approvals of a channel, worded for a plan and for an outcome."""
    name, notes = channel.value, []
    if restored.has_unknown_revocations:
        notes.append(
            f"{name}: neither the live approvals nor the pairing log can be read, so the revocations since the "
            f"snapshot are unknown, and no sender is approved. The approvals of the snapshot are in {stored}; "
            f"`{typed('pairing.approve', name, 'CODE')}` approves a sender."
        )
    elif restored.excluded:
        reason = (
            "not approved now, and the pairing log is broken"
            if history.status == "broken"
            else "revoked or removed since"
        )
        notes.append(f"{name}: removed from the snapshot's approvals, {reason}: {_listed(restored.excluded)}.")
    if restored.shared_ids:
        notes.append(f"{name}: not approved, because several people share the id: {_listed(restored.shared_ids)}.")
    if restored.withdrawn:
        notes.append(f"{name}: approved since the snapshot, removed by the rollback: {_listed(restored.withdrawn)}.")
    return notes


def _listed(senders: Iterable[str]) -> str:
    """Return the number of senders, and the first few."""
    listed = list(senders)
    first = ", ".join(excerpt_line(sender, 60) for sender in listed[:_MAX_LISTED])
    more = ", ..." if len(listed) > _MAX_LISTED else ""
    return f"{len(listed)} ({first}{more})"
