"""The asset kinds of this package, in the order in which messages list them. Add a new kind here."""

from __future__ import annotations

from release_tasks.assets.base import AssetKind
from release_tasks.assets.directory import DIRECTORY
from release_tasks.assets.file import FILE
from release_tasks.assets.plugin import PLUGIN
from release_tasks.assets.sqlite.kind import SQLITE
from release_tasks.core.records import AssetRecord

__all__ = ["ASSET_KINDS", "kind_of"]

ASSET_KINDS: tuple[AssetKind, ...] = (SQLITE, DIRECTORY, FILE, PLUGIN)

_BY_RECORD = {kind.records_as: kind for kind in (SQLITE, DIRECTORY, FILE)}


def kind_of(record: AssetRecord) -> AssetKind:
    """Return the kind of a captured asset; the current configuration may have another kind for it."""
    return PLUGIN if record.plugin is not None else _BY_RECORD[record.kind]
