"""The rollback journal of a database that names another file: its super-journal.

A transaction over several databases ends the journal of each with the name of one super-journal. SQLite opens the file
of that name, and deletes it when no journal needs it any more. The name can be any path, because everyone who can write
the folder of the database can write the journal. So no live database is opened while its journal names a file.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from attrs import frozen

from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.connection import DamagedDatabase, describe_holders, has_writer
from release_tasks.assets.waiting import LockWait
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.clock import awake
from release_tasks.core.place import Place, trusted
from release_tasks.core.printable import printable

__all__ = ["NamedFile", "require_no_super_journal", "settle_super_journal", "super_journal"]

# The end of such a journal: number of the lock page (4 bytes), name of the super-journal, length of the name (4),
# checksum of the name (4), magic number (8). Source: pager.c, writeSuperJournal.
_MAGIC = bytes.fromhex("d9d505f920a163d7")
_TAIL = 16
_MAX_NAME = 4096
_COMMIT_SECONDS = 0.5  # a commit over several databases has such a journal for a moment
_STEP = 0.01


@frozen
class NamedFile:
    """The name of a super-journal, and the size of the journal without it."""

    name: bytes
    journal_size: int


def super_journal(journal: Place) -> NamedFile | None:
    """Return the super-journal that a rollback journal names; None without a journal or a name. Raises OSError.

    The checksum does not matter: a name that SQLite would not use is no name that a service writes.
    """
    try:
        descriptor = journal.open()
    except FileNotFoundError:
        return None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None  # ``require_database`` refuses it
        tail = os.pread(descriptor, _TAIL, max(info.st_size - _TAIL, 0))
        length = int.from_bytes(tail[:4], "big")
        start = info.st_size - _TAIL - length
        if tail[8:] != _MAGIC or not 0 < length <= min(_MAX_NAME, info.st_size - _TAIL):
            return None
        return NamedFile(name=os.pread(descriptor, length, start), journal_size=max(start - 4, 0))
    finally:
        os.close(descriptor)


def require_no_super_journal(live: Place, wait: LockWait | None = None) -> None:
    """Raise DamagedDatabase while the journal of a live database names a super-journal.

    Waits while another process commits a transaction over several databases: its journal has such a name then.
    Raises Busy when that takes longer than ``wait``.
    """
    journal = live.sibling(f"{live.name}-journal")
    started = awake.now()
    while (found := super_journal(journal)) is not None:
        passed = awake.now() - started
        is_written = has_writer(live)
        if is_written and wait is not None and passed >= max(wait.seconds, _COMMIT_SECONDS):
            raise Busy(live.path, describe_holders(live), wait.seconds)
        if passed >= _COMMIT_SECONDS and not (is_written and wait is not None):
            raise DamagedDatabase(refusal(live.path, found.name))
        time.sleep(_STEP)


def refusal(database: Path, name: bytes) -> str:
    """Return the sentence about a journal that names a file, with what an operator can do."""
    shown = excerpt_line(printable(os.fsdecode(name)))
    return (
        f"{database} was not opened: {database.name}-journal is of an unfinished transaction over several databases, "
        f"and SQLite may delete the file that it names ({shown}). If your service uses several databases, start it "
        f"once, so that it finishes the transaction itself. If not, move {database}-journal away and check the data."
    )


def settle_super_journal(live: Place, journal: Path) -> None:
    """Remove the name from ``journal``, the copy of the journal of ``live``, or remove the copy of a committed one.

    The transaction is committed when the super-journal does not exist any more. A super-journal outside the folder of
    the database is not looked up, because a lookup of an unknown path can hang and tells whether the path exists:
    raises DamagedDatabase.
    """
    found = super_journal(trusted(journal))
    if found is None:
        return
    folder, _, name = os.fsdecode(found.name).rpartition("/")
    if not name or folder not in (str(live.path.parent), os.path.realpath(live.path.parent)):
        raise DamagedDatabase(refusal(live.path, found.name))
    if live.sibling(name).exists():
        os.truncate(journal, found.journal_size)
    else:
        journal.unlink()
