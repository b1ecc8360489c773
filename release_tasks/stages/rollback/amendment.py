"""A snapshot that holds pairing stores, amended before it is restored: nobody who was revoked since is admitted again.

What goes live is a snapshot like any other, made from the target, in which the lists of approvals lack the revoked and
the pairing log is the live one. So all that holds for a rollback holds for this one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.archive.capture import CaptureRequest
from release_tasks.archive.derive import Replacement, StoredFile, derive_snapshot, stored_bytes, with_replacements
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.seal import snapshot_digest
from release_tasks.archive.verify import verify_snapshot
from release_tasks.config.schema import Settings
from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import canonical_bytes, excerpt
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageError, with_path
from release_tasks.core.records import AuditAnchor, SnapshotMetadata
from release_tasks.pairing.channels import Channel
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

__all__ = ["Amendment", "amend_target", "covers_pairing", "find_amended", "foresee"]

_MOST_NAMED = 5


def covers_pairing(settings: Settings) -> bool:
    """Say whether an asset holds a pairing store or the pairing log, so that a rollback exchanges it."""
    return bool(covered_channels(settings))


@frozen(kw_only=True)
class Amendment:
    """What has to be amended in a snapshot, and what becomes of each channel's approvals; nothing is done yet."""

    target: SnapshotMetadata
    replacements: dict[StoredFile, Replacement] = field(factory=dict)
    stores: dict[Channel, RestoredStore] = field(factory=dict)
    diagnostics: list[str] = field(factory=list)

    @property
    def is_on_record(self) -> bool:
        """Whether nobody gains or loses an approval by this rollback, so that there is no event to write."""
        return not any(s.withdrawn or s.returned or s.is_emptied for s in self.stores.values())

    def amended(self) -> SnapshotMetadata:
        """Return what is to be restored, as a snapshot that need not have been made: equal content, equal id."""
        if not self.replacements:
            return self.target
        records = with_replacements(self.target, self.replacements)
        digest = snapshot_digest(records)
        mark = sha256_bytes(canonical_bytes([self.target.snapshot_id, digest]))[:12]
        snapshot_id = f"amended_{self.target.snapshot_id[:80]}_{mark}"
        return evolve(self.target, snapshot_id=snapshot_id, digest=digest, assets=records)


def foresee(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> Amendment:
    """Work out how ``target`` has to be amended by what the live stores and their log say now.

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
        stored, live = stored_bytes(folder, target, place), _live_entries(store, channel)
        restored = restore_store(channel, stored, live, history, store.approved_path(channel).name)
        if restored.data != stored:
            replacements[place] = Replacement(data=restored.data)
        stores[channel] = restored
        diagnostics += _told(channel, restored, history, folder / _relative(target, place))
    if log_place is not None:
        diagnostics.append(f"The pairing log is kept as it is: {store.audit.path}.")
    amendment = Amendment(target=target, replacements=replacements, stores=stores, diagnostics=diagnostics)
    return _with_live_log(amendment, store, log_place, folder)


def _with_live_log(amendment: Amendment, store: Store, place: StoredFile | None, folder: Path) -> Amendment:
    """Let the log in the snapshot be the live one, as it is at this moment."""
    if place is None:
        return amendment
    live = _live_log(store.audit.path)
    others = {other: change for other, change in amendment.replacements.items() if other != place}
    is_equal = live.data == stored_bytes(folder, amendment.target, place)
    return evolve(amendment, replacements=others if is_equal else {**others, place: live})


def find_amended(pipeline: Pipeline, amendment: Amendment) -> SnapshotMetadata | None:
    """Return the snapshot that restores what ``amendment`` asks for, None when it has not been made yet.

    None, too, when events have to be written first, which are part of it where the log is.
    """
    if not amendment.is_on_record:
        return None
    wanted = amendment.amended()
    return wanted if wanted is amendment.target else _made(pipeline, wanted)


def amend_target(
    settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, rollback_id: str
) -> tuple[SnapshotMetadata, list[str]]:
    """Return the snapshot to restore in place of ``target``, and what an operator should know of it.

    Writes into the pairing log who gains or loses an approval by rollback ``rollback_id``. Call it with the stores
    held. Raises StageFailed or OSError; nothing live but the log was touched then.
    """
    amendment = foresee(settings, pipeline, target)
    if not amendment.is_on_record:
        store = Store(settings.pairing.credentials)
        _write_events(store.audit, amendment, rollback_id)
        # Only the log is looked at again: that it is there now must not make it a witness.
        log_place = RestoredTree(settings.release.assets, target).place(store.audit.path)
        amendment = _with_live_log(amendment, store, log_place, pipeline.catalogue.path(target.snapshot_id))
    wanted = amendment.amended()
    if wanted is target:
        return target, amendment.diagnostics
    made = _made(pipeline, wanted)
    if made is not None and verify_snapshot(pipeline.catalogue, made).status == "verified":
        return made, amendment.diagnostics
    snapshot_id = wanted.snapshot_id
    if os.path.lexists(pipeline.catalogue.path(snapshot_id)):
        snapshot_id += f"-{secrets.token_hex(3)}"
    request = CaptureRequest(
        snapshot_id=snapshot_id,
        release_id=target.release_id,
        kind="safety",
        retention_limit=settings.release.retention,
        audit=pipeline.audit.anchor(),
    )
    return derive_snapshot(pipeline.catalogue, target, amendment.replacements, request), amendment.diagnostics


def _made(pipeline: Pipeline, wanted: SnapshotMetadata) -> SnapshotMetadata | None:
    with contextlib.suppress(StageError):
        found = pipeline.catalogue.get(wanted.snapshot_id)
        return found if found.digest == wanted.digest else None
    return None


def _history(pipeline: Pipeline, store: Store, target: SnapshotMetadata, log_place: StoredFile | None) -> History:
    stored: AuditAnchor | None = None
    if log_place is not None:
        path = pipeline.catalogue.path(target.snapshot_id) / _relative(target, log_place)
        with contextlib.suppress(OSError):
            stored = AuditLog(path).anchor()
    return read_history(store.audit, stored, _rollbacks_in_effect(pipeline))


def _rollbacks_in_effect(pipeline: Pipeline) -> set[str]:
    """Return the rollbacks whose snapshot went live and stayed; none that a broken log speaks of."""
    verdict = pipeline.audit.verify()
    if not verdict.intact:
        return set()
    found = set()
    for event in verdict.events:
        name, status = event.get("event"), event.get("status")
        # A refusal names its rollback only when its snapshot was live already.
        if name in ("rollback.finished", "rollback.refused") or (name, status) == ("rollback.recovered", "restored"):
            found.add(str(event.get("rollbackId")))
    return found


def _live_entries(store: Store, channel: Channel) -> list[str] | None:
    try:
        return store.approved_entries(channel)
    except StoreUnusable:
        return None


def _live_log(path: Path) -> Replacement:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return Replacement(data=None)
    with with_path(path), os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        return Replacement(data=file.read(), mode=stat.S_IMODE(info.st_mode), owner=(info.st_uid, info.st_gid))


def _relative(target: SnapshotMetadata, place: StoredFile) -> str:
    record = target.asset(place.key)
    assert record is not None
    return f"{record.relative_path}/{place.inside}" if place.inside else record.relative_path


def _write_events(log: AuditLog, amendment: Amendment, rollback_id: str) -> None:
    for channel, restored in amendment.stores.items():
        changes = [
            (restored.withdrawn, WITHDRAWN, "withdrawn", "a rollback took it back: the snapshot does not hold it"),
            (restored.returned, RETURNED, "granted", "a rollback gave it back: the snapshot holds it"),
        ]
        named = {"channel": channel.value, "rollbackId": rollback_id}
        for senders, event, status, detail in changes:
            for sender in senders:
                more = {**named, "senderId": excerpt(sender)}
                log.append(event, status=status, detail=detail, snapshot_id=amendment.target.snapshot_id, **more)
        if restored.is_emptied:
            detail = "a rollback took the list away: the snapshot holds none that can be used"
            log.append(EMPTIED, status="withdrawn", detail=detail, snapshot_id=amendment.target.snapshot_id, **named)


def _told(channel: Channel, restored: RestoredStore, history: History, stored: Path) -> list[str]:
    """Say what becomes of the approvals of a channel, in words that fit before and after."""
    name, told = channel.value, []
    if restored.has_unknown_revocations:
        told.append(
            f"{name}: neither the live approvals nor the pairing log can be read, so nothing tells who was revoked "
            f"since the snapshot, and nobody is admitted. Its approvals lie in {stored}; "
            f"`inv pairing.approve {name} CODE` admits whom you know."
        )
    elif restored.excluded:
        why = (
            "not approved now, and the pairing log is broken"
            if history.status == "broken"
            else "revoked or removed since"
        )
        told.append(f"{name}: left out of the snapshot's approvals, {why}: {_named(restored.excluded)}.")
    if restored.shared_ids:
        told.append(f"{name}: left out because they stand for more than one person: {_named(restored.shared_ids)}.")
    if restored.withdrawn:
        told.append(f"{name}: approved since the snapshot, taken back with it: {_named(restored.withdrawn)}.")
    return told


def _named(senders: Iterable[str]) -> str:
    """Return how many they are, and the first few."""
    listed = list(senders)
    first = ", ".join(excerpt(sender, 60) for sender in listed[:_MOST_NAMED])
    more = ", ..." if len(listed) > _MOST_NAMED else ""
    return f"{len(listed)} ({first}{more})"
