"""Releases of the older tool are compared by the content of their copies, which have no digests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import release_tasks
from release_tasks import Settings, load_project
from release_tasks.archive.diff import Difference, compare_releases
from tests.support.documented.older import write_older_project
from tests.support.files import listing

ASSETS = {
    "database": {"sqlite": "memory/gateway.db"},
    "identity": {"directory": "identity"},
    "mcp": {"file": "mcp-servers.json"},
    "package": {"file": "package.json"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with the releases v9, v10 and v11 of the older tool."""
    write_older_project(tmp_path, "2026-11-29T07:00:00.000Z", "2026-11-29T09:00:00.000Z")
    gates = {"build": {"command": "true"}}
    app = {"name": "gateway", "version": "1.0"}
    return load_project(tmp_path, {"release": {"app": app, "gates": gates, "assets": ASSETS}})


def _found(settings: Settings, before: str, after: str) -> tuple[dict[tuple[str, str], Difference], list[str]]:
    found = compare_releases(settings, before, after)
    return {(each.where, each.what): each for each in found.differences}, found.notes


def _snapshot(settings: Settings, release: str) -> Path:
    (folder,) = (settings.release.root / "snapshots").glob(f"{release}_snapshot_*")
    return folder


def test_two_older_releases_are_compared_by_content(settings: Settings) -> None:
    """Rows, files of a folder and keys of a configuration; comparing changes nothing."""
    stored = _snapshot(settings, "v10") / "assets"
    (stored / "identity/key").write_text("k")
    (stored / "package.json").write_text('{"name": "gateway", "version": "0.9.4"}')
    before = listing(settings.project)
    found, notes = _found(settings, "v9", "v10")
    assert (notes, listing(settings.project)) == ([], before)
    rows = found["gateway-db rows", "messages"]
    assert (rows.before, rows.after) == ("1", "2")
    assert found["identity", "key"].how == "added"
    assert found["package", "version"].after == '"0.9.4"'
    assert {where for where, _ in found} == {"version", "gateway-db rows", "identity", "package"}


def test_an_older_release_is_compared_with_a_new_one(settings: Settings) -> None:
    """Assets are matched by their paths: the older tool had other keys. It kept no modes, so modes do not count."""
    os.chmod(settings.project / "mcp-servers.json", 0o640)
    os.chmod(settings.project / "identity/identity.json", 0o640)
    (settings.project / "identity/identity.json").write_text('{"id": "one"}\n')
    release_tasks.prepare_release(settings, release_id="n1")
    found, notes = _found(settings, "v10", "n1")
    assert notes == []
    assert {where for where, _ in found} == {"version", "gates", "database rows"}


def test_what_cannot_be_read_is_a_note(settings: Settings, tmp_path: Path) -> None:
    """A copy that is missing, damaged, or leads elsewhere; the other assets are compared."""
    stored = _snapshot(settings, "v10") / "assets"
    (stored / "mcp-servers.json").unlink()
    (stored / "memory/gateway.db").write_bytes(b"no database" * 100)
    (stored / "identity/identity.json").unlink()
    (stored / "identity").rmdir()
    (stored / "identity").symlink_to(tmp_path)
    found, notes = _found(settings, "v9", "v10")
    assert {where for where, _ in found} == {"version"}
    assert [note.split(" cannot be compared")[0] for note in notes] == ["gateway-db", "identity", "mcp-servers"]
    assert f"{stored}/identity is a symbolic link" in notes[1]


def test_a_path_outside_of_the_snapshot_is_refused(settings: Settings) -> None:
    """The metadata of the older tool may name any path; only the manifests are compared then."""
    metadata = _snapshot(settings, "v10") / "metadata.json"
    document = json.loads(metadata.read_text())
    document["assets"][0]["relativePath"] = "../../../../etc/passwd"
    metadata.write_text(json.dumps(document))
    found, notes = _found(settings, "v9", "v10")
    assert set(found) == {("version", "")}
    assert len(notes) == 1 and "points outside the snapshot" in notes[0]
