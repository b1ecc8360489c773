"""Releases of a large database: each stores what differs from the base, and each is verified and restored."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from release_tasks.archive.capacity import capture_needs
from release_tasks.archive.status import release_status
from release_tasks.assets.sqlite.pages.engine import find_engine
from release_tasks.core.records import Manifest, StoredDelta
from release_tasks.stages.verify import verify_snapshots
from tests.support.project import Project
from tests.support.releases import release
from tests.support.rollback import roll_back

pytestmark = pytest.mark.skipif(find_engine() is None, reason="NOT TESTED: the extra `fast` is not installed")

ROWS = 3000


@pytest.fixture
def large(project: Project) -> Project:
    """A project with a database of about 3 MiB, and deltas from 1 MiB on."""
    project.overrides["storage.deltas_above"] = "1MiB"
    with closing(sqlite3.connect(project.database)) as database:
        database.execute("CREATE TABLE large(id INTEGER PRIMARY KEY, n INTEGER, v BLOB)")
        database.executemany("INSERT INTO large(n, v) VALUES (0, ?)", [(os.urandom(900),) for _ in range(ROWS)])
        database.commit()
    return project


def change(project: Project, number: int) -> None:
    with closing(sqlite3.connect(project.database)) as database:
        database.execute("UPDATE large SET n = ? WHERE id % 100 = ?", (number, number))
        database.commit()


def numbers(project: Project) -> list[int]:
    with closing(sqlite3.connect(project.database)) as database:
        return [row[0] for row in database.execute("SELECT n FROM large ORDER BY id")]


def delta_of(project: Project, manifest: Manifest) -> StoredDelta | None:
    assert manifest.snapshot is not None
    record = project.pipeline.catalogue.get(manifest.snapshot.snapshot_id).asset("database")
    assert record is not None
    return record.delta


def test_five_releases_take_little_more_than_one(large: Project) -> None:
    """All deltas have one base; every snapshot verifies, also after retention removed the snapshot of the base."""
    large.overrides["retention"] = 5
    first = release(large, "r0")
    assert delta_of(large, first) is None
    states = {}
    for number in range(1, 6):
        change(large, number)
        states[f"r{number}"] = numbers(large)
        delta = delta_of(large, release(large, f"r{number}"))
        assert delta is not None and first.snapshot is not None
        assert delta.base_snapshot_id == first.snapshot.snapshot_id
    found = release_status(large.settings)
    assert found.stored is not None
    assert found.stored.on_disk < found.stored.stands_for // 3
    assert [verdict.status for verdict in verify_snapshots(large.settings).snapshots] == ["verified"] * len(
        found.snapshots
    )
    for name, state in states.items():
        manifest = large.pipeline.get_manifest(name)
        assert manifest.snapshot is not None
        outcome = roll_back(large, manifest.snapshot.snapshot_id, force=True)
        assert outcome.status in ("restored", "noop"), outcome.diagnostics
        assert numbers(large) == state
    assert large.leftovers() == []


def test_deltas_off_stores_every_copy_whole(large: Project) -> None:
    """Existing deltas stay; their base stays with them."""
    release(large, "r0")
    change(large, 1)
    assert delta_of(large, release(large, "r1")) is not None
    large.overrides["storage.deltas"] = "off"
    change(large, 2)
    assert delta_of(large, release(large, "r2")) is None
    assert len(large.pipeline.catalogue.bases.digests()) == 1
    large.overrides["storage.deltas"] = "auto"
    change(large, 3)
    latest = delta_of(large, release(large, "r3"))
    assert latest is not None and latest.base_snapshot_id.startswith("r2")


def test_a_delta_needs_no_space_for_the_whole(large: Project) -> None:
    """A capture that would fit is not refused."""
    release(large, "r0")
    catalogue, assets = large.pipeline.catalogue, large.settings.release.assets
    whole = sum(need.footprint.size for need in capture_needs(catalogue.store.folder, assets))
    bases = catalogue.find_bases(assets)
    assert list(bases) == ["database"]
    assert (
        whole - sum(need.footprint.size for need in capture_needs(catalogue.store.folder, assets, bases=bases))
        > 1 << 20
    )
