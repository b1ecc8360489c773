"""The two files of a channel: read as they stand, changed one at a time between processes.

Approvals are written before requests are removed, so that a kill between the two loses neither.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, frozen

from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import InvalidDocument, excerpt, pretty_bytes, read_document
from release_tasks.core.durable import make_private_directory, write_atomic
from release_tasks.core.errors import LockHeld, StageFailed
from release_tasks.core.lock import FileLock
from release_tasks.pairing.channels import Channel, is_shared_id, persons
from release_tasks.pairing.dialects import PLAIN, ApprovedDocument, Request, RequestsDocument

__all__ = ["WAIT_SECONDS", "Change", "FileVersion", "Store", "StoreUnusable", "file_version"]

T = TypeVar("T")

WAIT_SECONDS = 10.0  # a change takes milliseconds; tests shorten it
_POLL_SECONDS = 0.005
_SECOND = 1_000_000_000
_SETTLED_NS = 20_000_000  # two ticks of the slowest kernel clock that stamps files, 100 Hz
_SETTLED_COARSE_NS = 3 * _SECOND  # FAT keeps times of two seconds, other filesystems of one


class StoreUnusable(StageFailed):
    """A file of a channel's store cannot be read or is not such a store, so no sender is admitted by it."""


@define(kw_only=True)
class Change:
    """A channel's store under its lock: set ``requests`` and ``approved``, then commit.

    ``left_out`` names what was found and will not be written again, because it stands for more than one person.
    """

    requests: list[Request]
    approved: list[str]
    left_out: list[str]
    found_requests: RequestsDocument
    found_approved: ApprovedDocument
    write: Callable[[str, dict[str, Any]], None]

    def commit(self) -> None:
        """Write what differs, durably; approvals first. Raises OSError, also between the two files."""
        if self.approved != self.found_approved.entries:
            self.found_approved.entries = self.approved
            self.write("allowFrom", self.found_approved.value())
        if self.requests != self.found_requests.requests:
            self.found_requests.requests = self.requests
            self.write("pairing", self.found_requests.value())


@frozen
class FileVersion:
    """What tells one version of a file from the next: which file it is, its size and its times in nanoseconds."""

    device: int
    number: int
    size: int
    modified_ns: int
    changed_ns: int

    def is_settled(self) -> bool:
        """Say whether any later change is sure to give another version.

        Two changes within one tick of the clock that stamps files carry the same times, so a young version proves
        nothing about the content that was read. A clock that was set back makes a version look unsettled for longer.
        """
        is_coarse = self.modified_ns % _SECOND == 0 and self.changed_ns % _SECOND == 0
        age = time.time_ns() - max(self.modified_ns, self.changed_ns)
        return age > (_SETTLED_COARSE_NS if is_coarse else _SETTLED_NS)


def file_version(path: Path) -> FileVersion | None:
    """Return the version of the file that ``path`` leads to, or None when it cannot be read; reading it says why."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return FileVersion(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Store:
    """The pairing stores below one credentials folder, which threads may share.

    Every call reads the files anew, but for ``approved_people``: it answers from memory for as long as the file of
    approvals stays the same version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.audit = AuditLog(folder / "pairing-audit.log")
        self._readings: dict[Channel, tuple[FileVersion, frozenset[str]]] = {}  # each is replaced as a whole

    def known_approved(self, channel: Channel) -> list[str] | None:
        """Return the entries as they stand in the file, also such as name no single person; raises StoreUnusable.

        None where there is no file.
        """
        found = self._read_approved(channel)
        return found.entries if found else None

    def approved_people(self, channel: Channel) -> frozenset[str]:
        """Return everybody who is approved, each normalised; raises StoreUnusable.

        Each answer asks for the version of the file, so a change counts from the next message on.
        """
        path = self.approved_path(channel)
        version, known = file_version(path), self._readings.get(channel)
        if known is not None and known[0] == version:
            return known[1]
        is_settled = version is not None and version.is_settled()  # before the reading, which takes its time
        people = frozenset(persons(channel, self.known_approved(channel) or []))
        if version is not None and is_settled and file_version(path) == version:
            self._readings[channel] = version, people
        return people

    def requests(self, channel: Channel) -> list[Request]:
        """Return the requests of single persons, expired ones too; raises StoreUnusable."""
        found = self._read_requests(channel)
        return [request for request in found.requests if not is_shared_id(channel, request.sender)] if found else []

    @contextlib.contextmanager
    def change(self, channel: Channel) -> Iterator[Change]:
        """Hold the channel's lock while the block runs, and hand it what both files say.

        Makes the folder and takes away what it and the files grant to others. Raises LockHeld, StoreUnusable, OSError.
        """
        make_private_directory(self.folder)
        _make_private(self.folder.resolve())
        with self.held([channel]):
            # The folder, too: it may have been exchanged for another while this waited.
            paths = self.lock_path(channel), self._path(channel, "pairing"), self.approved_path(channel)
            files = (*paths, self.audit.path)
            for file in (self.folder.resolve(), *files):
                _make_private(file)
            for leftover in self.folder.glob(f".{channel.value}-*.json.*.tmp"):  # of a write that was killed
                leftover.unlink(missing_ok=True)
            try:
                yield self._begin(channel)
            finally:
                for file in files:
                    _give_to_owner_of(self.folder, file)

    @contextlib.contextmanager
    def held(self, channels: Iterable[Channel]) -> Iterator[None]:
        """Keep every change of these channels out while the block runs. Raises LockHeld, OSError."""
        with contextlib.ExitStack() as locks:
            for channel in sorted(channels, key=lambda channel: channel.value):
                path = self.lock_path(channel)
                if not locks.enter_context(FileLock(path).held(WAIT_SECONDS, _POLL_SECONDS)):
                    waited = f"{WAIT_SECONDS:.0f} s"
                    raise LockHeld(f"{path} has been locked by another process for {waited}. Try again.")
            yield

    def lock_path(self, channel: Channel) -> Path:
        """Return the file by whose lock the changes of a channel follow one another."""
        return self.folder / f"{channel.value}-pairing.lock"

    def approved_path(self, channel: Channel) -> Path:
        """Return the file of a channel's approvals."""
        return self._path(channel, "allowFrom")

    def _begin(self, channel: Channel) -> Change:
        approved, requests = self._read_approved(channel), self._read_requests(channel)
        found = next((document.dialect for document in (requests, approved) if document is not None), PLAIN)
        approved = approved or ApprovedDocument(found, [], found.header())
        requests = requests or RequestsDocument(found, [], found.header())
        shared_ids = [entry for entry in approved.entries if is_shared_id(channel, entry)]
        shared_ids += [request.sender for request in requests.requests if is_shared_id(channel, request.sender)]
        return Change(
            requests=[request for request in requests.requests if request.sender not in shared_ids],
            approved=[entry for entry in approved.entries if entry not in shared_ids],
            left_out=sorted({excerpt(entry) for entry in shared_ids}),
            found_requests=requests,
            found_approved=approved,
            write=lambda kind, value: write_atomic(self._path(channel, kind), pretty_bytes(value)),
        )

    def _read_approved(self, channel: Channel) -> ApprovedDocument | None:
        return _read(self.approved_path(channel), ApprovedDocument.parse, "nobody is admitted by it")

    def _read_requests(self, channel: Channel) -> RequestsDocument | None:
        return _read(self._path(channel, "pairing"), RequestsDocument.parse, "nobody new can be admitted")

    def _path(self, channel: Channel, kind: str) -> Path:
        return self.folder / f"{channel.value}-{kind}.json"


def _read(path: Path, parse: Callable[[dict[str, Any], str], T], effect: str) -> T | None:
    try:
        return parse(read_document(path), str(path))
    except FileNotFoundError:
        return None
    except InvalidDocument as error:
        raise StoreUnusable(
            f"The pairing store is unusable, {effect}: {error}. "
            "It was left as it is; mend it, or move it away to begin an empty one."
        ) from error


def _give_to_owner_of(folder: Path, path: Path) -> None:
    """Let what root wrote belong to whom the folder belongs, or their service could not read it any more."""
    with contextlib.suppress(FileNotFoundError):
        owner, found = os.stat(folder), os.lstat(path)
        if os.geteuid() == 0 and stat.S_ISREG(found.st_mode) and found.st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _make_private(path: Path) -> None:
    """Take away what a file or folder grants to others; what is neither is left to the reader to refuse."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        most = 0o700 if stat.S_ISDIR(mode) else 0o600
        if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and stat.S_IMODE(mode) & ~most:
            os.chmod(path, stat.S_IMODE(mode) & most)
