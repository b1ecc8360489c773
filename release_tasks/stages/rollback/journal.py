"""The journal of a rollback. Its rename is the commit point: from then on recovery completes the rollback."""

from __future__ import annotations

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.seal import is_sealed, sealed_document
from release_tasks.core.canonical import InvalidDocument, excerpt, pretty_bytes, read_document
from release_tasks.core.codec import decode, encode
from release_tasks.core.durable import remove_durably, write_atomic
from release_tasks.core.errors import StageFailed
from release_tasks.core.ids import is_valid_id
from release_tasks.core.records import RollbackJournal
from release_tasks.core.typed import typed

__all__ = ["JOURNAL_VERSION", "clear_journal", "read_journal", "write_journal"]

JOURNAL_VERSION = 2
_FIRST_VERSION = 1  # without the schema cookies of databases


def write_journal(pipeline: Pipeline, journal: RollbackJournal) -> RollbackJournal:
    """Write the journal durably, sealed, and return it."""
    write_atomic(pipeline.journal_path, pretty_bytes(sealed_document(encode(journal))))
    return journal


def read_journal(pipeline: Pipeline) -> RollbackJournal | None:
    """Return the journal of an interrupted rollback, or None; raise StageFailed when it is damaged or unreadable."""
    name = pipeline.journal_path.name
    try:
        document = read_document(pipeline.journal_path)
        version = document.get("journalVersion")
        if type(version) is not int or not _FIRST_VERSION <= version <= JOURNAL_VERSION:
            raise InvalidDocument(f"{name} has an unknown journalVersion")
        # Only the journal records which steps are done and which file is new: a wrong bit would mix old and new state.
        if not is_sealed(document):
            raise InvalidDocument(f"{name} was altered: its checksum does not match")
        journal = decode(RollbackJournal, document, name)
        _require_consistent(journal, name)
        return journal
    except FileNotFoundError:
        return None
    except InvalidDocument as error:
        if isinstance(error.__cause__, OSError):
            raise StageFailed(
                f"It is unknown whether a rollback was interrupted: {error}. "
                f"Run this command as the owner of {pipeline.root}."
            ) from error
        raise StageFailed(
            f"A rollback was interrupted and its journal is damaged: {error}. Nothing was changed. Find the latest "
            f"safety snapshot (`{typed('release.status')}`), move {pipeline.journal_path} away, then run "
            f"`{typed('release.rollback', '--snapshot', 'ID', '--force')}`."
        ) from error


def _require_consistent(journal: RollbackJournal, name: str) -> None:
    """Raise InvalidDocument for a journal that no rollback writes; a matching checksum is no proof against forgery."""
    # The rollback id becomes part of file names next to the live assets.
    for key, text in (("rollbackId", journal.rollback_id), ("snapshotId", journal.snapshot_id)):
        if not is_valid_id(text):
            raise InvalidDocument(f"{name} has the invalid {key} {excerpt(text)!r}")
    if journal.safety_snapshot_id not in (None, f"safety_snapshot_{journal.rollback_id}"):
        raise InvalidDocument(
            f"{name} has the safetySnapshotId {excerpt(str(journal.safety_snapshot_id))!r} of another rollback"
        )
    if len({step.key for step in journal.steps}) != len(journal.steps):
        raise InvalidDocument(f"{name} has two steps for one asset")
    for step in journal.steps:
        is_placed = any(inode is not None for inode in (step.new, step.old, step.folder)) or step.mirrored
        cookies = (step.cookie, step.new_cookie)
        has_odd_cookies = cookies != (None, None) and (None in cookies or cookies[0] == cookies[1])
        is_odd = is_placed or step.exchange_only if step.action == "database" else step.begun or cookies != (None, None)
        if has_odd_cookies or is_odd:
            raise InvalidDocument(f"{name} has an inconsistent step for {excerpt(step.key)!r}")


def clear_journal(pipeline: Pipeline) -> None:
    """Remove the journal durably: from then on there is nothing to recover."""
    remove_durably(pipeline.journal_path)
