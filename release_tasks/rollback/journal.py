"""The journal: its rename into place is the moment from which a rollback is finished, not discarded."""

from __future__ import annotations

from attrs import evolve

from release_tasks.errors import StageFailed
from release_tasks.pipeline import Pipeline
from release_tasks.records import JournalStep, RollbackJournal
from release_tasks.storage.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.storage.codec import decode, encode
from release_tasks.storage.durable import remove_durably, write_atomic
from release_tasks.storage.ids import is_valid_id

__all__ = ["JOURNAL_VERSION", "clear_journal", "read_journal", "with_step", "write_journal"]

JOURNAL_VERSION = 1


def write_journal(pipeline: Pipeline, journal: RollbackJournal) -> RollbackJournal:
    """Write the journal durably and return it."""
    write_atomic(pipeline.journal_path, pretty_bytes(encode(journal)))
    return journal


def read_journal(pipeline: Pipeline) -> RollbackJournal | None:
    """Return the journal of an interrupted rollback, or None; raises StageFailed when it cannot be trusted."""
    try:
        document = read_document(pipeline.journal_path)
        if document.get("journalVersion") != JOURNAL_VERSION:
            raise InvalidDocument(f"{pipeline.journal_path.name} has an unknown journalVersion")
        journal = decode(RollbackJournal, document, pipeline.journal_path.name)
        # The id becomes part of file names beside the live assets.
        if not is_valid_id(journal.rollback_id):
            raise InvalidDocument(f"{pipeline.journal_path.name} has the invalid rollbackId {journal.rollback_id!r}")
        if len({step.key for step in journal.steps}) != len(journal.steps):
            raise InvalidDocument(f"{pipeline.journal_path.name} names an asset twice")
        return journal
    except FileNotFoundError:
        return None
    except InvalidDocument as error:
        raise StageFailed(
            f"A rollback was interrupted and its journal is damaged: {error}. Nothing was changed. Look at the newest "
            f"safety snapshot (`inv release.status`), move {pipeline.journal_path} away and run "
            "`inv release.rollback --snapshot ID --force`."
        ) from error


def with_step(journal: RollbackJournal, step: JournalStep) -> RollbackJournal:
    """Return ``journal`` with the step of the same asset replaced."""
    return evolve(journal, steps=[step if old.key == step.key else old for old in journal.steps])


def clear_journal(pipeline: Pipeline) -> None:
    """Remove the journal durably: from here on there is nothing to finish."""
    remove_durably(pipeline.journal_path)
