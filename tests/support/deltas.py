"""Snapshots of a project whose databases are stored as deltas against the copy in another snapshot."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

from release_tasks.assets.sqlite.delta import DeltaWriter
from tests.support.project import Project
from tests.support.stored_snapshots import forge, read_snapshot, write_snapshot

__all__ = ["base_of", "fill", "page_size_of", "store_as_delta", "write_delta"]

KEY = "database"


def fill(project: Project, rows: int) -> None:
    """Add a table of many pages to the database of a project."""
    with closing(connect(project.database)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS filler(id INTEGER PRIMARY KEY, body TEXT)")
        database.executemany("INSERT INTO filler(body) VALUES (?)", [(f"{n} text " * 40,) for n in range(rows)])


def page_size_of(database: bytes) -> int:
    """Return the page size in the header of a database."""
    size = int.from_bytes(database[16:18], "big")
    return 65536 if size == 1 else size


def write_delta(stored: Path, base: bytes, content: bytes, base_id: str) -> None:
    """Write the delta of a database against another one."""
    size = page_size_of(base)
    with stored.open("xb") as file:
        writer = DeltaWriter(
            file, page_size=size, base_sha256=hashlib.sha256(base).hexdigest(), base_snapshot_id=base_id
        )
        for offset in range(0, len(content), size):
            page, before = content[offset : offset + size], base[offset : offset + size]
            if page != before:
                writer.add(offset // size + 1, page, before if len(before) == size else None)
        writer.finish(pages=len(content) // size, sha256=hashlib.sha256(content).hexdigest())
    os.chmod(stored, 0o600)


def store_as_delta(project: Project, snapshot_id: str, base_id: str) -> Path:
    """Replace the plain database of a snapshot by a delta against that of the plain snapshot ``base_id``.

    Returns the path of the base, which is a hard link of the plain copy.
    """
    snapshots = project.pipeline.catalogue.store.folder
    folder, plain = snapshots / snapshot_id, snapshots / base_id / "assets" / KEY / project.database.name
    base = plain.read_bytes()
    linked = snapshots.parent / "bases" / f"{hashlib.sha256(base).hexdigest()}.db"
    linked.parent.mkdir(mode=0o700, exist_ok=True)
    if not linked.exists():
        os.link(plain, linked)
    document = read_snapshot(folder)
    (record,) = (asset for asset in document["assets"] if asset["key"] == KEY)
    copy = folder / record["relativePath"]
    stored = copy.with_name(f"{copy.name}.rtd1")
    write_delta(stored, base, copy.read_bytes(), base_id)
    copy.unlink()
    record["relativePath"] += ".rtd1"
    record["delta"] = {
        "baseSha256": linked.stem,
        "baseSnapshotId": base_id,
        "sha256": hashlib.sha256(stored.read_bytes()).hexdigest(),
        "size": stored.stat().st_size,
    }
    document["formatVersion"] = 3
    write_snapshot(folder, forge(document))
    return linked


def base_of(project: Project) -> Path:
    """Return the path of the only base."""
    (base,) = (project.pipeline.catalogue.store.folder.parent / "bases").iterdir()
    return base
