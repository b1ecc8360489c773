"""The two files of a channel: approvals and requests. A lock serialises the changes of all processes.

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
from release_tasks.core.durable import keep_out_of_git, make_private_directory, write_atomic
from release_tasks.core.errors import LockHeld, StageFailed
from release_tasks.core.lock import FileLock
from release_tasks.core.owned import require_own
from release_tasks.pairing.approvals import NO_APPROVALS, Approvals, approvals_of
from release_tasks.pairing.channels import Channel, is_shared_id
from release_tasks.pairing.dialects import PLAIN, ApprovedDocument, Persons, Request, RequestsDocument

__all__ = ["WAIT_SECONDS", "Change", "FileVersion", "Store", "StoreUnusable", "file_version"]

T = TypeVar("T")

WAIT_SECONDS = 10.0  # a change takes milliseconds; tests shorten it
_POLL_SECONDS = 0.005
_SECOND = 1_000_000_000
_STABLE_NS = 20_000_000  # two ticks of the slowest kernel clock for file times, 100 Hz
_STABLE_COARSE_NS = 3 * _SECOND  # file times have a resolution of 2 s on FAT, of 1 s on other old filesystems


class StoreUnusable(StageFailed):
    """A file of a channel's store cannot be read or is invalid, so it approves no sender."""


@define(kw_only=True)
class Change:
    """A channel's store under its lock: set ``requests``, ``approved`` and ``persons``, then commit.

    ``excluded`` names the shared ids in the files: they belong to more than one person and are not written again.
    ``approvals`` is the content of the file of approvals before the change.
    """

    requests: list[Request]
    approved: list[str]
    persons: Persons
    excluded: list[str]
    approvals: Approvals
    requests_document: RequestsDocument
    approved_document: ApprovedDocument
    write: Callable[[str, dict[str, Any]], None]

    def commit(self) -> None:
        """Write the changed files durably, approvals first. Raises OSError, also between the two files."""
        document = self.approved_document
        if (self.approved, self.persons) != (document.entries, document.persons):
            document.entries, document.persons = self.approved, self.persons
            self.write("allowFrom", document.value())
        if self.requests != self.requests_document.requests:
            self.requests_document.requests = self.requests
            self.write("pairing", self.requests_document.value())


@frozen
class FileVersion:
    """The version of a file: device, inode, size and times in nanoseconds.

    Every later change gives another version, if ``is_stable``.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def is_stable(self) -> bool:
        """Return whether every later change gives another version.

        Two changes within one tick of the kernel clock have the same times, so a recent version does not identify the
        content. After the clock was set back, the result stays False for longer.
        """
        is_coarse = self.modified_ns % _SECOND == 0 and self.changed_ns % _SECOND == 0
        age = time.time_ns() - max(self.modified_ns, self.changed_ns)
        return age > (_STABLE_COARSE_NS if is_coarse else _STABLE_NS)


def file_version(path: Path) -> FileVersion | None:
    """Return the version of the file at ``path``, following symlinks, or None if it is missing or not accessible."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return FileVersion(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Store:
    """The pairing stores in one credentials folder; several threads may use it.

    Every call reads the files, except ``approvals``, which caches its result while the version of the file is the same.
    ``wait`` is the time in seconds that a change waits for the lock, WAIT_SECONDS by default.
    """

    def __init__(self, folder: Path, wait: float | None = None) -> None:
        self.folder = folder
        self.audit = AuditLog(folder / "pairing-audit.log")
        self._wait = wait
        self._cache: dict[Channel, tuple[FileVersion, Approvals]] = {}  # an entry is replaced, never changed

    def require_own(self, *, is_made_private: bool = False) -> None:
        """Raise ForeignFolder in a run as root when another user can change the folder; see ``core.owned``."""
        require_own(self.folder, "pairing.credentials", is_made_private=is_made_private)

    def approved_document(self, channel: Channel) -> ApprovedDocument | None:
        """Return the content of the file of approvals, including shared ids, or None without a file.

        Raises StoreUnusable.
        """
        return _read(self.approved_path(channel), ApprovedDocument.parse, "no sender is approved")

    def approvals(self, channel: Channel) -> Approvals:
        """Return the approvals, without a lock; raises StoreUnusable.

        Each call checks the version of the file, so a change applies to the next message.
        """
        path = self.approved_path(channel)
        version, cached = file_version(path), self._cache.get(channel)
        if cached is not None and cached[0] == version:
            return cached[1]
        is_stable = version is not None and version.is_stable()  # before the file is read
        document = self.approved_document(channel)
        approvals = NO_APPROVALS if document is None else approvals_of(channel, document)
        if version is not None and is_stable and file_version(path) == version:
            self._cache[channel] = version, approvals
        return approvals

    def requests(self, channel: Channel) -> list[Request]:
        """Return the requests, including expired ones, without shared ids; raises StoreUnusable."""
        document = self._read_requests(channel)
        requests = document.requests if document else []
        return [request for request in requests if not is_shared_id(channel, request.sender)]

    @contextlib.contextmanager
    def change(self, channel: Channel, wait: float | None = None) -> Iterator[Change]:
        """Hold the channel's lock while the block runs, and yield the content of both files.

        Creates the folder and removes access of other users to it and to the files. ``wait`` is the time in seconds for
        the lock, by default that of the store. Raises LockHeld, StoreUnusable, ForeignFolder, OSError.
        """
        if not self.folder.exists():
            keep_out_of_git(self.folder)
        make_private_directory(self.folder)
        _make_private(self.folder.resolve())
        self.require_own(is_made_private=True)  # from now on, other users can add nothing
        with self.locked([channel], wait):
            # The folder again: another process may have replaced it during the wait for the lock.
            paths = self.lock_path(channel), self._path(channel, "pairing"), self.approved_path(channel)
            files = (*paths, self.audit.path)
            for file in (self.folder.resolve(), *files):
                _make_private(file)
            for leftover in self.folder.glob(f".{channel.value}-*.json.*.tmp"):  # of a killed write
                leftover.unlink(missing_ok=True)
            yield self._read_change(channel)

    @contextlib.contextmanager
    def locked(self, channels: Iterable[Channel], wait: float | None = None) -> Iterator[None]:
        """Hold the locks of these channels while the block runs, which prevents changes. Raises LockHeld, OSError."""
        longest = next((seconds for seconds in (wait, self._wait) if seconds is not None), WAIT_SECONDS)
        with contextlib.ExitStack() as locks:
            for channel in sorted(channels, key=lambda channel: channel.value):
                path = self.lock_path(channel)
                if not locks.enter_context(FileLock(path).held(longest, _POLL_SECONDS)):
                    waited = f"{longest:g} s"
                    raise LockHeld(f"{path} has been locked by another process for {waited}. Try again.")
            yield

    def lock_path(self, channel: Channel) -> Path:
        """Return the lock file of a channel."""
        return self.folder / f"{channel.value}-pairing.lock"

    def approved_path(self, channel: Channel) -> Path:
        """Return the file with the approvals of a channel."""
        return self._path(channel, "allowFrom")

    def _read_change(self, channel: Channel) -> Change:
        approved, requests = self.approved_document(channel), self._read_requests(channel)
        dialect = next((document.dialect for document in (requests, approved) if document is not None), PLAIN)
        approved = approved or ApprovedDocument(dialect, [], dialect.header())
        requests = requests or RequestsDocument(dialect, [], dialect.header())
        shared_ids = [entry for entry in approved.entries if is_shared_id(channel, entry)]
        shared_ids += [request.sender for request in requests.requests if is_shared_id(channel, request.sender)]
        return Change(
            requests=[request for request in requests.requests if request.sender not in shared_ids],
            approved=[entry for entry in approved.entries if entry not in shared_ids],
            persons=approved.persons,
            approvals=approvals_of(channel, approved),
            excluded=sorted({excerpt(entry) for entry in shared_ids}),
            requests_document=requests,
            approved_document=approved,
            write=lambda kind, value: write_atomic(self._path(channel, kind), pretty_bytes(value)),
        )

    def _read_requests(self, channel: Channel) -> RequestsDocument | None:
        return _read(self._path(channel, "pairing"), RequestsDocument.parse, "no new sender can be approved")

    def _path(self, channel: Channel, kind: str) -> Path:
        return self.folder / f"{channel.value}-{kind}.json"


def _read(path: Path, parse: Callable[[dict[str, Any], str], T], effect: str) -> T | None:
    try:
        return parse(read_document(path), str(path))
    except FileNotFoundError:
        return None
    except InvalidDocument as error:
        raise StoreUnusable(
            f"The pairing store is unusable, so {effect}: {error}. "
            "Fix the file, or move it away to start with an empty store."
        ) from error


def _make_private(path: Path) -> None:
    """Remove other users' access to a file or folder; any other file type is unchanged, and reading it fails."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        allowed = 0o700 if stat.S_ISDIR(mode) else 0o600
        if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and stat.S_IMODE(mode) & ~allowed:
            os.chmod(path, stat.S_IMODE(mode) & allowed)
