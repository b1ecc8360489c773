"""A snapshot with one changed byte is refused before anything live is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.digests import sha256_file
from tests.support.files import file_tree
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, safety_folder
from tests.support.snapshots import flip_bit
from tests.support.stored_snapshots import forge, read_snapshot, write_snapshot

STORED = {
    "database": "database/app.db",
    "identity": "identity/identity/keys/private.pem",
    "mcp": "mcp/mcp.json",
}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def replace_by_link(path: Path) -> None:
    copy = path.with_name("elsewhere")
    shutil.copy(path, copy)
    path.unlink()
    os.symlink(copy.name, path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [flip_bit, truncate, append, Path.unlink, replace_by_link, replace_by_folder]


@pytest.mark.parametrize("key", STORED)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_asset_is_refused_before_anything_is_touched(
    project: Project, key: str, damage: Callable[[Path], None]
) -> None:
    """The message names asset and recorded digest; live files keep their inodes; the attempt is audited."""
    project.capture()
    project.damage()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / STORED[key]
    recorded = sha256_file(stored)
    damage(stored)
    before = file_tree(project.state)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert f"asset {key}" in outcome.diagnostics[0]
    assert recorded in outcome.diagnostics[0]
    if damage in (flip_bit, truncate, append):
        assert sha256_file(stored) in outcome.diagnostics[0]
    assert outcome.safety_snapshot_id is None
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "failed")]
    assert project.leftovers() == []


def test_message_names_only_snapshots_with_a_good_copy(project: Project) -> None:
    """Snapshots with a damaged or a different copy are not named, and the named one restores."""
    before = project.content()
    for release in ("v1", "v2", "v3"):
        project.capture(release)
    project.mcp.write_text('{"other": 1}')
    project.capture("v4")
    catalogue = project.pipeline.catalogue
    flip_bit(catalogue.path("v3_snapshot") / "assets" / STORED["mcp"])
    flip_bit(catalogue.path("v2_snapshot") / "assets" / STORED["mcp"])
    outcome = roll_back(project, "v3_snapshot")
    assert outcome.status == "failed"
    assert "is in: v1_snapshot." in outcome.diagnostics[0]
    assert roll_back(project, "v1_snapshot").status == "restored"
    assert project.content() == before


@pytest.mark.smoke
def test_added_file_inside_a_folder_is_refused(project: Project) -> None:
    """A key that was added to a stored identity is never restored."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "identity" / "identity"
    (stored / "keys" / "backdoor").write_text("x")
    before = file_tree(project.state)
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "keys/backdoor" in outcome.diagnostics[0]
    assert file_tree(project.state) == before


def test_changed_link_target_is_refused(project: Project) -> None:
    """The digest covers the target of a link."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "identity" / "identity" / "current"
    stored.unlink()
    os.symlink("/etc/passwd", stored)
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "identity" in outcome.diagnostics[0]


def test_copy_of_an_absent_asset_is_refused(project: Project) -> None:
    """An asset recorded as absent must have no stored copy."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "extra"
    stored.mkdir()
    (stored / "extra.json").write_text("{}")
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "extra" in outcome.diagnostics[0]


@pytest.mark.parametrize("name", ["assets/database/app.db-wal", "assets/mcp/other.json", "assets/more/thing", "thing"])
def test_file_added_next_to_the_assets_is_refused(project: Project, name: str) -> None:
    """The snapshot may contain no file that was not captured."""
    project.capture()
    path = project.pipeline.catalogue.path("v1_snapshot") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert roll_back(project, force=True).status == "failed"


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_side_file_next_to_a_stored_database_never_goes_live(project: Project, suffix: str) -> None:
    """The restored rows are the recorded ones, or the snapshot is refused."""
    before = project.content()
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / STORED["database"]
    project.damage()
    damaged = project.content()
    stored.with_name(stored.name + suffix).write_bytes(os.urandom(8192))
    status = roll_back(project).status
    assert project.content() == (before if status == "restored" else damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["assets"][0].update(sha256="0" * 64), "checksum"),
        (lambda d: d.update(digest="0" * 64), "checksum"),
        (lambda d: d.update(formatVersion=99), "99"),
        (lambda d: d.update(snapshotId="v2_snapshot"), "v1_snapshot"),
        (lambda d: d["assets"][2].update(relativePath="assets/../../../mcp.json"), "checksum"),
    ],
    ids=["digest of an asset", "digest", "newer format", "another id", "path"],
)
def test_altered_metadata_is_refused(project: Project, change: Callable[[Any], None], message: str) -> None:
    """A checksum covers the metadata; the refusal is audited."""
    project.capture()
    project.damage()
    path = project.pipeline.catalogue.path("v1_snapshot") / "metadata.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    before = file_tree(project.state)
    outcome = roll_back(project, "v1_snapshot")
    assert outcome.status == "failed"
    assert message in outcome.diagnostics[0]
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "failed")]


def reseal(path: Path, change: Callable[[Any], None]) -> None:
    """Change the metadata and compute digest and checksum again, as an attacker who knows the format can."""
    document = read_snapshot(path.parent)
    change(document)
    write_snapshot(path.parent, forge(document))


@pytest.mark.parametrize(
    "relative", ["../../../../outside/mcp.json", "assets/mcp/..", "/etc/passwd", "assets/identity/mcp.json", ""]
)
def test_forged_path_outside_the_asset_is_refused(project: Project, relative: str) -> None:
    """A consistent document still cannot name a path outside the folder of its asset."""
    project.capture()
    project.damage()
    path = project.pipeline.catalogue.path("v1_snapshot") / "metadata.json"
    reseal(path, lambda d: d["assets"][2].update(relativePath=relative))
    before = file_tree(project.state)
    assert roll_back(project, "v1_snapshot").status == "failed"
    assert file_tree(project.state) == before


@pytest.mark.parametrize("entry", ["../../../outside", "/tmp/outside", "keys/../../../outside"])
def test_forged_entry_outside_the_folder_is_refused(project: Project, entry: str) -> None:
    """An entry of a folder cannot name a path outside that folder either."""
    project.capture()
    project.damage()
    folder = project.pipeline.catalogue.path("v1_snapshot")
    document = read_snapshot(folder)
    document["assets"][1]["entries"][0]["path"] = entry
    write_snapshot(folder, forge(document))
    before = file_tree(project.state)
    assert roll_back(project, "v1_snapshot").status == "failed"
    assert file_tree(project.state) == before


def test_link_in_place_of_a_snapshot_folder_is_refused(project: Project, tmp_path: Path) -> None:
    """A folder outside the catalogue is no snapshot."""
    from release_tasks.core.errors import UsageError

    project.capture()
    folder = project.pipeline.catalogue.path("v1_snapshot")
    shutil.move(folder, tmp_path / "moved")
    os.symlink(tmp_path / "moved", folder)
    with pytest.raises(UsageError):
        roll_back(project, "v1_snapshot")


@pytest.mark.parametrize("what", ["folder", "link", "socket inside"])
def test_folder_link_or_socket_in_place_of_an_asset_is_replaced(project: Project, what: str) -> None:
    """A folder or link in place of mcp.json, or a socket in identity/, is replaced and kept as remains."""
    import socket

    original = project.content()
    project.capture()
    listener = socket.socket(socket.AF_UNIX)
    if what == "socket inside":
        folder = os.open(project.identity, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/agent")
        os.close(folder)
    else:
        project.mcp.unlink()
        if what == "folder":
            project.mcp.mkdir()
            (project.mcp / "inside").write_text("x")
        else:
            project.mcp.symlink_to("/etc/hostname")
    outcome = roll_back(project)
    listener.close()
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == original
    assert not (project.identity / "agent").exists()
    safety = safety_folder(project, outcome)
    if what == "folder":
        assert (safety / "assets/mcp/mcp.json/mcp.json/inside").read_text() == "x"
