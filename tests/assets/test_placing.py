"""Names next to an asset: short where the disk has no long ones, and found again in both forms."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from release_tasks.assets.placing import displaced, leftovers, staged, suffixed
from release_tasks.core.place import trusted
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import PowerCut, fail_at
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project
from tests.support.rollback import roll_back, safety_id
from tests.support.swap_crash import crash_at

ROLLBACK = "20260101000000-abcdef"
OTHER = "20260101000000-fedcba"
NAMES = {
    "short": "mcp.json",
    "235 bytes": "n" * 235,
    "255 bytes": "n" * 255,
    "multibyte": "\u00e9" * 127,
    "not UTF-8": os.fsdecode(b"\xff" * 250),
    "hidden": "." + "h" * 240,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_next_to_an_asset_fits_and_is_found_again(tmp_path: Path, name: str) -> None:
    """The staged copy, the displaced state, and the side files of a staged database."""
    target = tmp_path / NAMES[name]
    copy = staged(trusted(target), ROLLBACK)
    places = [copy, displaced(copy), *(suffixed(copy, suffix) for suffix in ("-wal", "-shm", "-journal"))]
    paths = [place.path for place in places]
    assert len(set(paths)) == 5
    for path in paths:
        assert len(os.fsencode(path.name)) <= 255
        path.touch()
    assert leftovers(target, [ROLLBACK]) == sorted(paths)
    assert leftovers(tmp_path / "another", [ROLLBACK]) == []
    assert leftovers(target, [OTHER]) == leftovers(target, []) == []


def test_names_of_different_assets_and_rollbacks_differ(tmp_path: Path) -> None:
    """Two names that are equal in their first 250 bytes."""
    targets = [tmp_path / ("n" * 250 + end) for end in ("a", "b")]
    paths = {staged(trusted(target), rollback).path for target in targets for rollback in (ROLLBACK, OTHER)}
    assert len(paths) == 4
    for path in paths:
        path.touch()
    assert [len(leftovers(target, [ROLLBACK, OTHER])) for target in targets] == [2, 2]
    assert [len(leftovers(target, [OTHER])) for target in targets] == [1, 1]


def long_names(project: Project, length: int) -> dict[str, Path]:
    """Give a file and a folder of the project names of this length."""
    paths = {"file": project.state / ("f" * length), "folder": project.state / ("d" * length)}
    paths["file"].write_text("good")
    paths["folder"].mkdir()
    (paths["folder"] / ("e" * 255)).write_text("good")
    project.overrides["assets.long-file"] = {"file": f"state/{paths['file'].name}"}
    project.overrides["assets.long-folder"] = {"directory": f"state/{paths['folder'].name}"}
    return paths


@pytest.mark.parametrize("length", [200, 235, 248, 255])
def test_ready_means_restorable_for_long_names(project: Project, length: int) -> None:
    """Prepare, rollback, an interrupted rollback, and the rollback to the safety snapshot."""
    paths = long_names(project, length)
    assert prepare(project.settings, passed_preflight(), "v1").status == "ready"
    inner = paths["folder"] / ("e" * 255)
    for path in (paths["file"], inner):
        path.write_text("bad")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "rename_into_place", 1, after=True)
        with pytest.raises(PowerCut):
            roll_back(project)
    assert recover(project.settings).status == "finished"
    assert (paths["file"].read_text(), inner.read_text()) == ("good", "good")
    inner.write_text("bad")
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert inner.read_text() == "good"
    assert roll_back(project, safety_id(outcome)).status == "restored"
    assert inner.read_text() == "bad"
    assert project.leftovers() == []


def test_journal_with_long_staged_names_is_recovered(project: Project) -> None:
    """A name that just fits is staged as by earlier versions, so that their journals are found to be complete."""
    assert staged(trusted(project.mcp), ROLLBACK).name == f".mcp.json.release-tasks-{ROLLBACK}"
    long = project.state / ("n" * (255 - len(f"..release-tasks-{ROLLBACK}")))
    assert len(staged(trusted(long), ROLLBACK).name) == 255
    assert displaced(staged(trusted(long), ROLLBACK)).name.endswith(".before")


@pytest.mark.parametrize("length", [235, 247])
def test_database_with_a_long_name_is_restored(project: Project, length: int) -> None:
    """A readable database through SQLite, a damaged one by an exchange with side files."""
    path = project.state / ("d" * length)
    make_database(path, 1)
    project.overrides["assets.long"] = {"sqlite": f"state/{path.name}"}
    assert prepare(project.settings, passed_preflight(), "v1").status == "ready"
    for damage in (lambda: make_database(path, 2), lambda: path.write_bytes(b"garbage" * 1000)):
        damage()
        Path(f"{path}-journal").write_bytes(b"")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(swap, "write_journal", fail_at(1, vars(swap)["write_journal"], PowerCut()))
            with pytest.raises(PowerCut):
                roll_back(project)
        assert read_journal(project.pipeline) is not None
        assert recover(project.settings).status == "finished"
        database = sqlite3.connect(path)
        assert database.execute("SELECT * FROM t").fetchall() == [(1,)]
        database.close()
        assert project.leftovers() == []


def test_database_without_space_for_side_names_blocks_the_release(project: Project) -> None:
    """SQLite could not make its journal, so no rollback could write to it."""
    path = project.state / ("d" * 250)
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = MEMORY")
    database.execute("CREATE TABLE t(x)")
    database.close()
    project.overrides["assets.long"] = {"sqlite": f"state/{path.name}"}
    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.status == "blocked"
    assert any("Give the database a shorter name" in line for line in manifest.diagnostics), manifest.diagnostics


def make_database(path: Path, number: int) -> None:
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t(x)")
    database.execute("INSERT INTO t VALUES (?)", (number,))
    database.commit()
    database.close()
