"""A base stays for as long as a delta needs it, also when its own snapshot is gone, and not for longer."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Literal

import pytest
from attrs import evolve

from release_tasks.archive.capture import CaptureRequest, capture_snapshot, new_snapshot
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.retention import apply_retention, retain
from release_tasks.archive.status import release_status
from release_tasks.assets.base import AssetConfig, Base
from release_tasks.assets.sqlite.delta import DeltaWriter
from release_tasks.core.records import AssetRecord, SnapshotMetadata, StoredDelta
from release_tasks.report.status import overview
from tests.support.project import Project

LEAST = 8192


@pytest.fixture
def large(project: Project) -> Project:
    """A project whose database is large enough for deltas."""
    project.overrides["storage.deltas_above"] = LEAST
    return project


def take(project: Project, snapshot_id: str, kind: Literal["release", "safety"] = "release") -> SnapshotMetadata:
    """Take a snapshot of the database, stored whole."""
    assets = {"database": evolve(project.settings.release.assets["database"], deltas_above=None)}
    request = CaptureRequest(snapshot_id=snapshot_id, release_id=None, kind=kind, retention_limit=5)
    return capture_snapshot(project.pipeline.catalogue, assets, request)


def choose(project: Project) -> Base | None:
    """Return the base that the next capture of the database would use."""
    catalogue = project.pipeline.catalogue
    return catalogue.bases.choose(catalogue.published()[0], "database", asset_of(project))


def asset_of(project: Project) -> AssetConfig:
    return project.settings.release.assets["database"]


def take_delta(project: Project, snapshot_id: str, kind: Literal["release", "safety"] = "release") -> StoredDelta:
    """Publish a snapshot that stores the state of the base, as a delta without a page."""
    catalogue, base = project.pipeline.catalogue, choose(project)
    assert base is not None
    base.keep()
    origin = catalogue.get(base.snapshot_id).asset("database") if base.snapshot_id in names(catalogue) else None
    size = os.stat(base.path).st_size

    def fill(partial: Path) -> list[AssetRecord]:
        relative = "assets/database/app.db"
        (partial / relative).parent.mkdir(mode=0o700)
        with (partial / relative).open("wb") as file:
            writer = DeltaWriter(file, page_size=4096, base_sha256=base.sha256, base_snapshot_id=base.snapshot_id)
            written = writer.finish(pages=size // 4096, sha256=base.sha256)
        delta = StoredDelta(
            base_sha256=base.sha256, base_snapshot_id=base.snapshot_id, sha256=written.sha256, size=written.size
        )
        record = AssetRecord(
            key="database",
            relative_path=relative,
            kind="sqlite",
            exists=True,
            size=size,
            sha256=base.sha256,
            content_digest=base.sha256,
            mode=origin.mode if origin else 0o644,
            journal_mode="wal",
            delta=delta,
        )
        return [record]

    request = CaptureRequest(snapshot_id=snapshot_id, release_id=None, kind=kind, retention_limit=5)
    with new_snapshot(catalogue, fill, request) as metadata:
        catalogue.publish(metadata)
    found = metadata.assets[0].delta
    assert found is not None
    return found


def names(catalogue: Catalogue) -> list[str]:
    return [snapshot.snapshot_id for snapshot in catalogue.published()[0]]


def write_row(project: Project) -> None:
    with sqlite3.connect(project.database) as database:
        database.execute("INSERT INTO accounts(balance) VALUES (7)")
    database.close()


def test_the_base_is_that_of_the_newest_snapshot(large: Project) -> None:
    """The plain copy of the newest snapshot; with a delta, the base of that delta, also without its own snapshot."""
    assert choose(large) is None
    take(large, "a")
    write_row(large)
    take(large, "b")
    base = choose(large)
    assert base is not None and base.snapshot_id == "b"
    assert base.path == large.pipeline.catalogue.path("b") / "assets/database/app.db"
    take_delta(large, "c")
    large.pipeline.catalogue.store.delete("b")
    base = choose(large)
    assert base is not None and (base.snapshot_id, base.path.parent.name) == ("b", "bases")


def test_nothing_is_a_base_that_must_not_be_one(large: Project) -> None:
    """A small database, one whose file was cut, other assets, and everything with deltas off."""
    take(large, "a")
    assert choose(large) is not None
    snapshots = large.pipeline.catalogue.published()[0]
    bases = large.pipeline.catalogue.bases
    for asset in (evolve(asset_of(large), deltas_above=None), evolve(asset_of(large), deltas_above=1 << 30)):
        assert bases.choose(snapshots, "database", asset) is None
    large.overrides["storage.deltas"] = "off"
    assert choose(large) is None
    large.overrides["storage.deltas"] = "auto"
    os.truncate(large.pipeline.catalogue.path("a") / "assets/database/app.db", 4096)
    assert choose(large) is None
    assert bases.choose(snapshots, "mcp", large.settings.release.assets["mcp"]) is None


def test_a_base_is_one_file_with_its_copy_and_outlives_its_snapshot(large: Project) -> None:
    """A hard link: it takes no space of its own, and its bytes stay when its snapshot is removed."""
    take(large, "a")
    copy = large.pipeline.catalogue.path("a") / "assets/database/app.db"
    delta = take_delta(large, "b")
    path = large.pipeline.catalogue.bases.path(delta.base_sha256)
    assert os.path.samefile(path, copy)
    content = path.read_bytes()
    retain(large.pipeline.catalogue, 1, set())
    assert names(large.pipeline.catalogue) == ["b"]
    assert large.pipeline.clean_up() == [] and path.read_bytes() == content


def test_the_last_delta_takes_the_base_with_it(large: Project) -> None:
    """Retention removes the base in the same run; a safety snapshot holds it as a release does."""
    take(large, "a")
    delta = take_delta(large, "b", "safety")
    path = large.pipeline.catalogue.bases.path(delta.base_sha256)
    write_row(large)
    take(large, "c")
    retain(large.pipeline.catalogue, 1, set())
    apply_retention(large.pipeline, 5)
    assert names(large.pipeline.catalogue) == ["b", "c"] and path.exists()
    take(large, "d", "safety")
    retain(large.pipeline.catalogue, 1, set())
    apply_retention(large.pipeline, 5)
    assert names(large.pipeline.catalogue) == ["c", "d"] and not path.exists()


def test_an_orphan_is_removed_and_the_copy_stays(large: Project) -> None:
    """A capture that was interrupted after it linked the base."""
    take(large, "a")
    base = choose(large)
    assert base is not None
    base.keep()
    assert large.pipeline.has_leftovers()
    assert large.pipeline.clean_up() == [f"{base.sha256}.db"]
    assert not large.pipeline.has_leftovers() and base.path.exists()


@pytest.mark.parametrize("reason", ["unreadable snapshot", "journal", "unfinished snapshot"])
def test_a_base_stays_while_its_need_is_unknown(large: Project, reason: str) -> None:
    """A snapshot that cannot be read may need it, and so may an interrupted rollback."""
    take(large, "a")
    base = choose(large)
    assert base is not None
    base.keep()
    pipeline = large.pipeline
    if reason == "unreadable snapshot":
        take(large, "b")
        (pipeline.catalogue.path("b") / "metadata.json").write_text("{}")
    elif reason == "journal":
        pipeline.journal_path.write_text("{}")
    else:
        pipeline.catalogue.store.partial_path("c").mkdir()
    assert pipeline.remove_unneeded_bases() == []
    apply_retention(pipeline, 1)
    assert pipeline.catalogue.bases.path(base.sha256).exists()


def test_only_bases_are_removed(large: Project) -> None:
    """Other names in the folder stay; a file in the place of the folder is no error."""
    folder = large.pipeline.catalogue.bases.folder
    take(large, "a")
    folder.mkdir()
    (folder / "notes.txt").touch()
    (folder / f"{'0' * 64}.db").touch()
    assert large.pipeline.clean_up() == [f"{'0' * 64}.db"]
    assert os.listdir(folder) == ["notes.txt"]
    (folder / "notes.txt").unlink()
    folder.rmdir()
    folder.touch()
    assert large.pipeline.clean_up() == [] and not large.pipeline.has_leftovers()
    assert choose(large) is not None


def test_status_shows_what_is_on_the_disk_and_what_it_stands_for(large: Project) -> None:
    """A base counts once, as its copy or, without its snapshot, alone; a delta counts with its own size."""

    def shown() -> tuple[int, int]:
        document = overview(large.settings, 10, release_status(large.settings))["storage"]
        assert json.dumps(document)
        return document["onDisk"], document["standsFor"]

    size = take(large, "a").assets[0].size
    assert shown() == (size, size)
    small = take_delta(large, "b").size
    assert shown() == (size + small, 2 * size)
    large.pipeline.catalogue.store.delete("a")
    assert shown() == (size + small, size)
