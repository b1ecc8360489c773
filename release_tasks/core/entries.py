"""The entries of a folder in a file of their own: one canonical entry a line, sorted by path.

A folder may have a million names, so its entries are no part of the snapshot's metadata, which is read as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, overload

from release_tasks.core.canonical import InvalidDocument, canonical_bytes, excerpt, open_document, parse_object
from release_tasks.core.codec import decode, encode
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.records import AssetEntry

__all__ = ["ENTRIES", "StoredEntries", "entries_digest", "write_entries"]

ENTRIES = "entries"  # the folder of a snapshot that contains these files
_BLOCK_BYTES = 1 << 20
_MAX_LINE = 16 << 20  # bytes; the longest path that a capture takes has less than 3 MiB


class StoredEntries(Sequence[AssetEntry]):
    """The entries of one asset in the file ``entries/<key>.jsonl`` of a snapshot; read again at each use.

    The file is input: every read raises StageFailed, which names the line, when the file is missing, is no regular
    file, or contains anything but canonical entries in ascending order of their paths, which all stay inside the asset.
    With ``sha256``, the end of a read raises it when the lines that were read are those of another list.
    """

    def __init__(self, snapshot: Path, key: str, sha256: str | None = None) -> None:
        self.path = snapshot / ENTRIES / f"{key}.jsonl"
        self.name = f"{ENTRIES}/{key}.jsonl"
        self.sha256 = sha256

    def __iter__(self) -> Iterator[AssetEntry]:
        before: str | None = None
        digest = hashlib.sha256(b"[")
        with self._opened() as file:
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE + 1)
                if not line:
                    digest.update(b"]")
                    if self.sha256 not in (None, digest.hexdigest()):  # changed since its verification
                        raise StageFailed(f"{self.name} was altered: it is not the list whose digest is recorded.")
                    return
                digest.update((b"," if number > 1 else b"") + line[:-1])
                entry = self._entry(line, number)
                if before is not None and entry.path <= before:
                    what = "repeats the entry" if entry.path == before else "should be above the entry"
                    raise StageFailed(f"{self.name}, line {number}, {what} {excerpt(before)!r}.")
                before = entry.path
                yield entry

    def __len__(self) -> int:
        return sum(block.count(b"\n") for block in self._blocks())

    @overload
    def __getitem__(self, index: int) -> AssetEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[AssetEntry]: ...

    def __getitem__(self, index: int | slice) -> AssetEntry | list[AssetEntry]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def digest(self) -> str:
        """Return the digest of the list that the lines make, whether they are valid entries or not.

        With brackets around it and commas between its lines, the file is the canonical form of the list. A file that
        ends inside a line makes a list without its end.
        """
        digest = hashlib.sha256(b"[")
        last = b""
        for block in self._blocks():
            digest.update((last + block[:-1]).replace(b"\n", b","))
            last = block[-1:]
        digest.update(b"]" if last in (b"", b"\n") else last)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[bytes]:
        with self._opened() as file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            if self.path.parent.is_symlink():
                raise InvalidDocument(f"{ENTRIES} is a symbolic link")
            descriptor = open_document(self.path)
        except FileNotFoundError as error:
            raise StageFailed(f"{self.name} is missing.") from error
        except InvalidDocument as error:
            raise StageFailed(f"{error}.") from error
        with with_path(self.path), os.fdopen(descriptor, "rb") as file:
            yield file

    def _entry(self, line: bytes, number: int) -> AssetEntry:
        name = f"{self.name}, line {number},"
        if not line.endswith(b"\n"):
            raise StageFailed(f"{name} is cut short." if len(line) <= _MAX_LINE else f"{name} is too long.")
        try:
            document = parse_object(line[:-1], name)
            entry = decode(AssetEntry, document, name)
        except InvalidDocument as error:
            raise StageFailed(f"{error}.") from error
        if canonical_bytes(document) != line[:-1]:
            raise StageFailed(f"{name} is not in its canonical form.")
        if not _is_inside(entry.path):
            raise StageFailed(f"{name} has the path {excerpt(entry.path)!r}, which is not a path inside the asset.")
        return entry


def entries_digest(entries: Iterable[AssetEntry]) -> str:
    """Return the SHA-256 over the canonical form of a folder's entries. Raises StageFailed as StoredEntries does."""
    if isinstance(entries, StoredEntries):
        return entries.digest()
    digest = hashlib.sha256(b"[")
    for number, entry in enumerate(entries):
        digest.update((b"," if number else b"") + canonical_bytes(encode(entry)))
    digest.update(b"]")
    return digest.hexdigest()


def write_entries(snapshot: Path, key: str, entries: Iterable[AssetEntry]) -> None:
    """Write the sorted entries of the asset ``key`` to a new file in the snapshot; the caller flushes it."""
    target = StoredEntries(snapshot, key).path
    with contextlib.suppress(FileExistsError):
        os.mkdir(target.parent, 0o700)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with with_path(target), os.fdopen(descriptor, "wb", _BLOCK_BYTES) as file:
        file.writelines(canonical_bytes(encode(entry)) + b"\n" for entry in entries)


def _is_inside(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # JSON can contain surrogates that represent no byte
        return False
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))
