"""A snapshot of which one byte is not as recorded is refused before anything live is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.digests import sha256_file
from tests.support.project import Project
from tests.support.rollback import audit_events, file_tree, roll_back, safety_folder
from tests.support.snapshots import flip_bit

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
def test_a_damaged_asset_is_refused_before_anything_is_touched(
    project: Project, key: str, damage: Callable[[Path], None]
) -> None:
    """The sentence names the asset and the recorded digest; live files keep their inodes; the attempt is audited."""
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
    assert project.strays() == []


def test_the_message_names_another_snapshot_with_a_good_copy(project: Project) -> None:
    """And only one that really is good: a damaged and a different one are not offered; following it works."""
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
def test_an_added_file_inside_a_folder_is_refused(project: Project) -> None:
    """A key that somebody slipped into a stored identity never goes live."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "identity" / "identity"
    (stored / "keys" / "backdoor").write_text("x")
    before = file_tree(project.state)
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "keys/backdoor" in outcome.diagnostics[0]
    assert file_tree(project.state) == before


def test_a_link_that_points_elsewhere_is_refused(project: Project) -> None:
    """The target of a link is covered by the digest."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "identity" / "identity" / "current"
    stored.unlink()
    os.symlink("/etc/passwd", stored)
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "identity" in outcome.diagnostics[0]


def test_a_copy_of_what_was_absent_is_refused(project: Project) -> None:
    """What is recorded as absent may not be found there."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "extra"
    stored.mkdir()
    (stored / "extra.json").write_text("{}")
    outcome = roll_back(project, force=True)
    assert outcome.status == "failed"
    assert "extra" in outcome.diagnostics[0]


@pytest.mark.parametrize("name", ["assets/database/app.db-wal", "assets/mcp/other.json", "assets/more/thing", "thing"])
def test_a_file_added_beside_the_assets_is_refused(project: Project, name: str) -> None:
    """No byte that was not there when it was taken."""
    project.capture()
    path = project.pipeline.catalogue.path("v1_snapshot") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert roll_back(project, force=True).status == "failed"


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_side_file_beside_a_stored_database_never_goes_live(project: Project, suffix: str) -> None:
    """Whatever is made of it, the rows are the recorded ones, or it is refused."""
    before = project.content()
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / STORED["database"]
    project.damage()
    damaged = project.content()
    stored.with_name(stored.name + suffix).write_bytes(os.urandom(8192))
    status = roll_back(project).status
    assert project.content() == (before if status == "restored" else damaged)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["assets"][0].update(sha256="0" * 64), "checksum"),
        (lambda d: d.update(digest="0" * 64), "checksum"),
        (lambda d: d.update(formatVersion=99), "99"),
        (lambda d: d.update(snapshotId="v2_snapshot"), "v1_snapshot"),
        (lambda d: d["assets"][2].update(relativePath="assets/../../../mcp.json"), "checksum"),
    ],
    ids=["digest of an asset", "digest", "newer format", "another id", "path"],
)
def test_altered_metadata_is_refused(project: Project, change: Callable[[Any], None], told: str) -> None:
    """The metadata is sealed; the refusal is audited."""
    project.capture()
    project.damage()
    path = project.pipeline.catalogue.path("v1_snapshot") / "metadata.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    before = file_tree(project.state)
    outcome = roll_back(project, "v1_snapshot")
    assert outcome.status == "failed"
    assert told in outcome.diagnostics[0]
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "failed")]


def reseal(path: Path, change: Callable[[Any], None]) -> None:
    """Alter metadata as somebody who knows the format would: with digest and checksum made right again."""
    from release_tasks.archive.seal import sealed, snapshot_digest
    from release_tasks.core.codec import decode, encode
    from release_tasks.core.records import SnapshotMetadata

    document = json.loads(path.read_text())
    change(document)
    metadata = decode(SnapshotMetadata, document, "metadata.json")
    document["digest"] = snapshot_digest(metadata.assets)
    path.write_text(json.dumps(encode(sealed(decode(SnapshotMetadata, document, "metadata.json")))))


@pytest.mark.parametrize(
    "relative", ["../../../../outside/mcp.json", "assets/mcp/..", "/etc/passwd", "assets/identity/mcp.json", ""]
)
def test_a_resealed_path_that_leaves_its_place_is_refused(project: Project, relative: str) -> None:
    """A hostile but consistent document still cannot point anywhere else."""
    project.capture()
    project.damage()
    path = project.pipeline.catalogue.path("v1_snapshot") / "metadata.json"
    reseal(path, lambda d: d["assets"][2].update(relativePath=relative))
    before = file_tree(project.state)
    assert roll_back(project, "v1_snapshot").status == "failed"
    assert file_tree(project.state) == before


@pytest.mark.parametrize("entry", ["../../../outside", "/tmp/outside", "keys/../../../outside"])
def test_a_resealed_entry_that_leaves_its_folder_is_refused(project: Project, entry: str) -> None:
    """Nor can an entry of a folder."""
    from release_tasks.assets.files import entries_digest
    from release_tasks.core.codec import decode
    from release_tasks.core.records import AssetEntry

    project.capture()
    project.damage()
    path = project.pipeline.catalogue.path("v1_snapshot") / "metadata.json"

    def change(document: Any) -> None:
        asset = document["assets"][1]
        asset["entries"][0]["path"] = entry
        asset["sha256"] = entries_digest([decode(AssetEntry, e, "entry") for e in asset["entries"]])

    reseal(path, change)
    before = file_tree(project.state)
    assert roll_back(project, "v1_snapshot").status == "failed"
    assert file_tree(project.state) == before


def test_a_snapshot_folder_that_is_a_link_is_none(project: Project, tmp_path: Path) -> None:
    """What lies elsewhere is no snapshot of ours."""
    from release_tasks.core.errors import UsageError

    project.capture()
    folder = project.pipeline.catalogue.path("v1_snapshot")
    shutil.move(folder, tmp_path / "moved")
    os.symlink(tmp_path / "moved", folder)
    with pytest.raises(UsageError):
        roll_back(project, "v1_snapshot")


@pytest.mark.parametrize("what", ["folder", "link", "socket inside"])
def test_what_took_an_assets_place_does_not_bar_the_way_back(project: Project, what: str) -> None:
    """A folder or a link where the config should be, a socket in identity/: replaced, and kept as remains."""
    import socket

    good = project.content()
    project.capture()
    listener = socket.socket(socket.AF_UNIX)
    if what == "socket inside":
        here = os.open(project.identity, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/agent")
        os.close(here)
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
    assert project.content() == good
    assert not (project.identity / "agent").exists()
    safety = safety_folder(project, outcome)
    if what == "folder":
        assert (safety / "assets/mcp/mcp.json/mcp.json/inside").read_text() == "x"
