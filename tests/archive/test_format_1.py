"""Snapshots of formats 1 and 2 are read and restored: in format 1 the entries are a part of metadata.json."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from release_tasks.archive.status import release_status
from release_tasks.archive.verify import verify_all
from release_tasks.stages.drill.engine import run_drill
from tests.support.project import MakeProject, Project
from tests.support.stored_snapshots import forge, read_snapshot, write_format_1, write_snapshot


@pytest.fixture
def older(make_project: MakeProject) -> Project:
    """A project with one snapshot of format 1, which was not written by the code under test."""
    project = make_project("project", journal_mode="delete")
    assets = {
        "database": ("sqlite", project.database),
        "identity": ("directory", project.identity),
        "mcp": ("file", project.mcp),
        "extra": ("file", project.extra),
    }
    write_format_1(project.pipeline.catalogue.store.folder, "v0", assets)
    return project


def test_snapshot_of_format_1_is_listed_verified_and_drilled(older: Project) -> None:
    """It is an ordinary snapshot: the latest one, intact, restorable."""
    catalogue = older.pipeline.catalogue
    assert catalogue.latest().snapshot_id == "v0_snapshot"
    assert catalogue.latest().format_version == 1
    (verdict,) = verify_all(catalogue)
    assert (verdict.status, verdict.findings) == ("verified", [])
    outcome = run_drill(older.settings)
    assert (outcome.status, outcome.diagnostics) == ("passed", [])


def test_snapshot_of_format_1_is_restored_and_undone(older: Project) -> None:
    """The rollback restores all of it; its safety snapshot has format 2, and is restored in turn."""
    new = older.content()
    older.damage()
    old = older.content()
    outcome = older.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert older.content() == new
    assert outcome.safety_snapshot_id is not None
    assert older.pipeline.catalogue.get(outcome.safety_snapshot_id).format_version == 2
    assert older.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert older.content() == old
    assert older.roll_back("v0_snapshot").status == "restored"
    assert older.roll_back("v0_snapshot").status == "noop"
    assert older.leftovers() == []


def test_pipeline_of_format_2_is_read_verified_and_restored(older: Project) -> None:
    """Its entries are in files, and it knows no deltas: it stays as it is, and a safety snapshot of it is plain."""
    folder = older.pipeline.catalogue.path("v0_snapshot")
    write_snapshot(folder, forge(read_snapshot(folder) | {"formatVersion": 2, "parents": []}))
    assert (folder / "entries" / "identity.jsonl").is_file()
    catalogue = older.pipeline.catalogue
    assert catalogue.latest().format_version == 2
    assert [asset.delta for asset in catalogue.latest().assets] == [None] * 4
    assert [(verdict.status, verdict.findings) for verdict in verify_all(catalogue)] == [("verified", [])]
    assert run_drill(older.settings).status == "passed"
    new, metadata = older.content(), (folder / "metadata.json").read_bytes()
    older.damage()
    old = older.content()
    outcome = older.roll_back()
    assert (outcome.status, older.content()) == ("restored", new)
    assert outcome.safety_snapshot_id is not None
    assert catalogue.get(outcome.safety_snapshot_id).format_version == 2
    assert older.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert older.content() == old
    assert (folder / "metadata.json").read_bytes() == metadata


def test_equal_state_has_an_equal_digest_in_both_formats(older: Project) -> None:
    """The list of entries moved to a file, and its digest stayed the same."""
    connection = sqlite3.connect(older.database)
    connection.execute("VACUUM")
    connection.close()
    newer = older.capture("v1")
    earlier = older.pipeline.catalogue.get("v0_snapshot")
    assert [asset.sha256 for asset in newer.assets[1:]] == [asset.sha256 for asset in earlier.assets[1:]]
    assert newer.assets[1].entries == earlier.assets[1].entries
    assert older.pipeline.catalogue.get("v1_snapshot").assets[1].entries == earlier.assets[1].entries


@pytest.mark.timeout(30)
def test_entries_are_read_only_where_they_are_needed(project: Project) -> None:
    """Listing, status and audit do not depend on the number of names in a folder."""
    project.capture()
    project.capture("v2")
    entries = [project.pipeline.catalogue.path(f"{name}_snapshot") / "entries" for name in ("v1", "v2")]
    for folder in entries:
        (folder / "identity.jsonl").unlink()
        os.mkfifo(folder / "identity.jsonl")
    assert len(project.pipeline.catalogue.published()[0]) == 2
    assert len(release_status(project.settings).snapshots) == 2
    assert project.pipeline.audit.verify(project.pipeline.anchors()).intact


def test_a_folder_with_any_name_is_restored_from_its_lines(project: Project) -> None:
    """Line ends, quotes, names that are not UTF-8 and an empty folder; each entry is one line."""
    names = [b"new\nline", b"caf\xe9", b'quote"', "zwölf".encode(), b"\xf0\x9f\x99\x82", b"n" * 255]
    for name in names:
        with open(os.fsencode(project.identity) + b"/" + name, "w") as file:
            file.write("x")
    os.symlink(b"to\nsome\xe9thing", project.identity / "link")
    snapshot = project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "entries" / "identity.jsonl"
    lines = stored.read_bytes().splitlines()
    assert len(lines) == len(snapshot.assets[1].entries or []) == len(os.listdir(project.identity)) + 2
    paths = [json.loads(line)["path"] for line in lines]
    assert paths == sorted(paths)
    new = project.content()
    project.damage()
    assert project.roll_back().status == "restored"
    assert project.content() == new
    assert [verdict.status for verdict in verify_all(project.pipeline.catalogue)] == ["verified"] * 2


def test_a_snapshot_without_folders_has_no_entries(tmp_path: Path) -> None:
    """A folder without content has an empty file."""
    project = Project(tmp_path)
    project.overrides["assets"] = {"mcp": {"file": "state/mcp.json"}}
    project.capture()
    assert sorted(os.listdir(project.pipeline.catalogue.path("v1_snapshot"))) == ["assets", "metadata.json"]
    (project.state / "none").mkdir()
    project.overrides["assets"] = {"none": {"directory": "state/none"}}
    project.capture("v2")
    assert (project.pipeline.catalogue.path("v2_snapshot") / "entries" / "none.jsonl").read_bytes() == b""
    assert {verdict.status for verdict in verify_all(project.pipeline.catalogue)} == {"verified"}
    (project.state / "none" / "more").touch()
    assert project.roll_back("v2_snapshot").status == "restored"
    assert os.listdir(project.state / "none") == []
