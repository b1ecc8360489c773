"""The ids of removed safety snapshots whose state is still there, in an equal snapshot that stays.

A rollback prints the id of its safety snapshot as the way to undo it. The id works as long as the state is retained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.archive.seal import is_sealed, sealed_document
from release_tasks.core.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.core.codec import decode, encode
from release_tasks.core.durable import write_atomic
from release_tasks.core.records import SEQUENCE_LIMIT

__all__ = ["Alias", "AliasFile", "follow"]

_VERSION = 1
_MOST = 10_000  # the latest ones; a supervisor may repeat a rollback for months, and a reader accepts 16 MiB


@frozen(kw_only=True)
class Alias:
    """A removed snapshot, and the equal snapshot ``target``, which stays. ``sequence`` is that of the removed one."""

    snapshot_id: str
    target: str
    sequence: int
    removed_at: str


@frozen(kw_only=True)
class _Document:
    format_version: int
    aliases: list[Alias]


class AliasFile:
    """The file ``path``. It is written before a snapshot is removed, so no id is lost by a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Alias]:
        """Return the aliases by id; empty when there is no file. Raises InvalidDocument when it cannot be trusted."""
        try:
            document = read_document(self.path)
        except FileNotFoundError:
            return {}
        if not is_sealed(document):
            raise InvalidDocument(f"{self.path.name} was altered: its checksum does not match")
        version = document.get("formatVersion")
        if type(version) is int and version > _VERSION:
            raise InvalidDocument(
                f"{self.path.name} has format {version}; this version of release-tasks reads up to {_VERSION}"
            )
        aliases = decode(_Document, document, self.path.name).aliases
        if not all(0 < alias.sequence < SEQUENCE_LIMIT for alias in aliases):
            raise InvalidDocument(f"{self.path.name} has an invalid sequence")
        return {alias.snapshot_id: alias for alias in aliases}

    def write(self, aliases: Iterable[Alias]) -> None:
        """Replace the file, durably, unless it has these aliases already. Raises OSError.

        Raises InvalidDocument for a file that cannot be trusted: it stays as evidence.
        """
        wanted = sorted(aliases, key=lambda alias: (alias.sequence, alias.snapshot_id))[-_MOST:]
        if list(self.read().values()) == wanted:
            return
        document = encode(_Document(format_version=_VERSION, aliases=wanted))
        write_atomic(self.path, pretty_bytes(sealed_document(document)))


def follow(aliases: Mapping[str, Alias], snapshot_id: str) -> str:
    """Return the snapshot that an id stands for: the end of its chain of aliases, or the id itself."""
    seen = {snapshot_id}
    while (alias := aliases.get(snapshot_id)) is not None and alias.target not in seen:
        snapshot_id = alias.target
        seen.add(snapshot_id)
    return snapshot_id
