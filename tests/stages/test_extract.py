"""A snapshot is written as plain files, with the recorded bytes and modes, and nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from release_tasks.archive.delta_reader import READER, write_reader
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.stages.extract import extract_snapshot
from tests.support.deltas import base_of, fill, store_as_delta
from tests.support.project import Project
from tests.support.snapshots import flip_bit


@pytest.fixture
def stored(project: Project) -> Project:
    """A project with v1 (plain) and v2, whose database is a delta."""
    fill(project, 200)
    project.capture("v1")
    project.damage_rows()
    fill(project, 20)
    project.mcp.chmod(0o640)
    project.capture("v2")
    store_as_delta(project, "v2_snapshot", "v1_snapshot")
    return project


def filler(path: Path) -> int:
    """Return the number of rows of a table."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(database.execute("SELECT count(*) FROM filler").fetchone()[0])


@pytest.mark.parametrize(("snapshot", "rows"), [("v1_snapshot", 200), ("v2_snapshot", 220), (None, 220)])
def test_plain_copies_are_written(stored: Project, tmp_path: Path, snapshot: str | None, rows: int) -> None:
    """Databases, folders with links and files, each with the recorded digest and mode; the live state stays."""
    live, before = stored.content(), sorted(os.listdir(stored.state))
    folder = tmp_path / "extracted"
    found = extract_snapshot(stored.settings, snapshot, folder)
    record = stored.pipeline.catalogue.find(snapshot).asset("database")
    assert record is not None
    database = folder / "database" / "app.db"
    assert sha256_file(database) == record.sha256
    assert filler(database) == rows
    assert [asset.path for asset in found.assets if asset.key == "database"] == [str(database)]
    assert os.readlink(folder / "identity" / "identity" / "current") == "keys/private.pem"
    assert (folder / "identity" / "identity" / "keys" / "private.pem").stat().st_mode & 0o777 == 0o600
    mode = (folder / "mcp" / "mcp.json").stat().st_mode & 0o777
    assert mode == (0o640 if rows == 220 else stored.pipeline.catalogue.get("v1_snapshot").assets[2].mode)
    assert (folder.stat().st_mode & 0o777, found.absent) == (0o700, ["extra"])
    assert (stored.content(), sorted(os.listdir(stored.state))) == (live, before)
    assert stored.leftovers() == []


def test_one_asset_is_chosen_and_nothing_is_overwritten(stored: Project, tmp_path: Path) -> None:
    """A second asset may go to the same folder; what exists stays as it is."""
    folder = tmp_path / "extracted"
    extract_snapshot(stored.settings, "v2_snapshot", folder, key="mcp")
    assert os.listdir(folder) == ["mcp"]
    (folder / "mcp" / "mcp.json").write_text("mine")
    extract_snapshot(stored.settings, "v2_snapshot", folder, key="database")
    for key in ("mcp", None):
        with pytest.raises(UsageError, match=r"mcp exists already|database exists already"):
            extract_snapshot(stored.settings, "v2_snapshot", folder, key=key)
    assert (folder / "mcp" / "mcp.json").read_text() == "mine"
    assert sorted(os.listdir(folder)) == ["database", "mcp"]


def test_unknown_names_and_live_folders_are_refused(stored: Project, tmp_path: Path) -> None:
    """Before anything is written."""
    settings, root = stored.settings, stored.settings.release.root
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="has no asset 'x'; it has database, identity, mcp, extra"):
        extract_snapshot(settings, None, tmp_path / "a", key="x")
    with pytest.raises(UsageError):
        extract_snapshot(settings, "v9_snapshot", tmp_path / "a")
    for folder, words in (
        (root / "x", "release.root"),
        (stored.identity / "x", "release.assets.identity"),
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "no" / "a", "does not exist"),
    ):
        with pytest.raises(UsageError, match=words):
            extract_snapshot(settings, None, folder)
    assert not (tmp_path / "a").exists()


def test_damaged_snapshot_is_refused_and_leaves_nothing(stored: Project, tmp_path: Path) -> None:
    """The base is verified before the first file is written."""
    flip_bit(base_of(stored))
    with pytest.raises(StageFailed, match="its base"):
        extract_snapshot(stored.settings, "v2_snapshot", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_full_disk_leaves_nothing(stored: Project, tmp_path: Path) -> None:
    """What was written before the error is removed."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract_snapshot(stored.settings, "v2_snapshot", tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "a").exists()


def test_remains_of_a_damaged_asset_are_extracted(stored: Project, tmp_path: Path) -> None:
    """A safety snapshot of a damaged database has a folder of raw files."""
    for path in stored.state.glob("app.db-*"):
        path.unlink()
    stored.database.write_bytes(b"no database" * 1000)
    outcome = stored.roll_back("v1_snapshot")
    assert outcome.safety_snapshot_id is not None
    extract_snapshot(stored.settings, outcome.safety_snapshot_id, tmp_path / "a", key="database")
    assert (tmp_path / "a" / "database" / "app.db" / "app.db").read_bytes() == b"no database" * 1000


def run_reader(stored: Project, output: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of the pipeline folder on the delta of v2, without site packages."""
    root = stored.settings.release.root
    delta = root / "snapshots" / "v2_snapshot" / "assets" / "database" / "app.db.rtd1"
    line = [sys.executable, "-I", "-S", str(root / READER), str(delta), str(output)]
    return subprocess.run(line, cwd="/", capture_output=True, text=True, timeout=60)


def test_script_of_the_pipeline_reads_a_delta_without_this_package(stored: Project, tmp_path: Path) -> None:
    """The standard library is enough, also from a copy of the folder elsewhere; an existing file is refused."""
    root, output = stored.settings.release.root, tmp_path / "plain.db"
    write_reader(root)
    done = run_reader(stored, output)
    record = stored.pipeline.catalogue.get("v2_snapshot").assets[0]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{output}: SHA-256 {record.sha256}, as recorded\n"
    assert (sha256_file(output), filler(output)) == (record.sha256, 220)
    assert output.stat().st_mode & 0o777 == 0o600
    again = run_reader(stored, output)
    assert again.returncode != 0
    assert "FileExistsError" in again.stderr
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    write_reader(moved)
    assert (moved / READER).read_bytes() == (root / READER).read_bytes()


@pytest.mark.parametrize("which", ["delta", "base"])
def test_script_refuses_a_damaged_file(stored: Project, tmp_path: Path, which: str) -> None:
    """It ends with a sentence and writes no database."""
    root = stored.settings.release.root
    write_reader(root)
    delta = root / "snapshots" / "v2_snapshot" / "assets" / "database" / "app.db.rtd1"
    flip_bit(delta if which == "delta" else base_of(stored))
    done = run_reader(stored, tmp_path / "plain.db")
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "plain.db").exists()


def test_first_published_delta_brings_the_script(stored: Project) -> None:
    """A rollback to a delta, and a snapshot that is derived from it, publish a delta again."""
    root = stored.settings.release.root
    assert not (root / READER).exists()
    catalogue = stored.pipeline.catalogue
    snapshot = catalogue.get("v2_snapshot")
    catalogue.store.folder.joinpath("v2_snapshot").rename(catalogue.store.partial_path("v2_snapshot"))
    catalogue.publish(snapshot)
    assert (root / READER).stat().st_mode & 0o777 == 0o600
    assert run_reader(stored, root.parent / "plain.db").returncode == 0
