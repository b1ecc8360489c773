"""Who is admitted, answered from memory for as long as the file of approvals stays the same.

Each answer asks for the version of that file, so an approval or a revocation counts from the next message on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from attrs import frozen

from release_tasks.pairing.channels import Channel, persons
from release_tasks.pairing.store import Store

__all__ = ["Admissions", "FileVersion", "file_version"]

_SECOND = 1_000_000_000
_SETTLED_NS = 20_000_000  # two ticks of the slowest kernel clock that stamps files, 100 Hz
_SETTLED_COARSE_NS = 3 * _SECOND  # FAT keeps times of two seconds, other filesystems of one


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


class Admissions:
    """The approvals of one store. Threads may share it: each reading is replaced as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readings: dict[Channel, tuple[FileVersion, frozenset[str]]] = {}

    def people(self, channel: Channel) -> frozenset[str]:
        """Return everybody who is approved, each normalised; raises StoreUnusable."""
        path = self._store.approved_path(channel)
        version, known = file_version(path), self._readings.get(channel)
        if known is not None and known[0] == version:
            return known[1]
        is_settled = version is not None and version.is_settled()  # before the reading, which takes its time
        people = frozenset(persons(channel, self._store.known_approved(channel) or []))
        if version is not None and is_settled and file_version(path) == version:
            self._readings[channel] = version, people
        return people
