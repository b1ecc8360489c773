"""Content and records of a snapshot, and equal digests for equal state."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.assets.files import capture_file
from release_tasks.assets.trees import capture_tree, place_tree, scan_tree
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.place import trusted
from tests.support.project import MakeProject, Project

METADATA_KEYS = {
    "formatVersion", "snapshotId", "releaseId", "kind", "createdAt", "retentionLimit", "digest", "assets", "metadataPath",  # noqa: E501
}  # fmt: skip
ASSET_KEYS = {"key", "relativePath", "kind", "exists", "size", "sha256", "mode"}


def snapshot_folder(project: Project, release_id: str = "v1") -> Path:
    path: Path = project.pipeline.catalogue.path(f"{release_id}_snapshot")
    return path


def metadata(project: Project, release_id: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((snapshot_folder(project, release_id) / "metadata.json").read_text())
    return document


def identity_entries(project: Project) -> list[dict[str, Any]]:
    lines = (snapshot_folder(project) / "entries" / "identity.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.smoke
def test_metadata_has_every_key_of_the_format(project: Project) -> None:
    """Tools of operators read these names."""
    project.capture()
    document = metadata(project)
    assert document.keys() >= METADATA_KEYS
    assets = {asset["key"]: asset for asset in document["assets"]}
    assert list(assets) == ["database", "identity", "mcp", "extra"]
    assert all(asset.keys() >= ASSET_KEYS for asset in assets.values())
    assert assets["database"]["contentDigest"]
    assert not any("entries" in asset for asset in assets.values())
    assert os.listdir(snapshot_folder(project) / "entries") == ["identity.jsonl"]
    assert [entry["path"] for entry in identity_entries(project)] == [
        "current", "identity.json", "keys", "keys/empty", "keys/private.pem",
    ]  # fmt: skip
    assert (document["kind"], document["releaseId"], document["snapshotId"]) == ("release", "v1", "v1_snapshot")
    assert document["metadataPath"] == str(snapshot_folder(project) / "metadata.json")


def test_sha256sum_agrees_with_every_recorded_digest(project: Project) -> None:
    """sha256sum confirms the database, the file and each file of a folder."""
    project.capture()
    recorded: dict[str, str] = {}
    for entry in identity_entries(project):
        if entry["kind"] == "file":
            recorded[f"assets/identity/identity/{entry['path']}"] = entry["sha256"]
    for asset in metadata(project)["assets"]:
        if asset["exists"] and asset["kind"] != "directory":
            recorded[asset["relativePath"]] = asset["sha256"]
    assert len(recorded) == 4
    done = subprocess.run(
        ["sha256sum", "--check", "--strict"],
        input="".join(f"{digest}  {path}\n" for path, digest in recorded.items()),
        cwd=snapshot_folder(project),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_assets_are_stored_as_plain_files(project: Project) -> None:
    """Bytes are unchanged, links stay links, empty folders exist, and an absent asset has no copy."""
    project.capture()
    assets = snapshot_folder(project) / "assets"
    assert (assets / "mcp" / "mcp.json").read_bytes() == project.mcp.read_bytes()
    identity = assets / "identity" / "identity"
    assert (identity / "keys" / "private.pem").read_text() == "key material"
    assert os.readlink(identity / "current") == "keys/private.pem"
    assert (identity / "keys" / "empty").is_dir()
    assert not (assets / "extra").exists()
    extra = metadata(project)["assets"][3]
    assert (extra["exists"], extra["sha256"], extra["mode"]) == (False, None, None)


def test_snapshot_is_private(project: Project) -> None:
    """Modes are 0700 and 0600, although the state is readable by all and the umask is 0."""
    os.chmod(project.mcp, 0o666)
    os.chmod(project.identity, 0o777)
    os.chmod(project.database, 0o644)
    before = os.umask(0)
    try:
        project.capture()
    finally:
        os.umask(before)
    root = project.pipeline.root
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.lstat().st_mode) == expected, path
    modes = {asset["key"]: asset["mode"] for asset in metadata(project)["assets"]}
    assert (modes["mcp"], modes["identity"], modes["database"]) == (0o666, 0o777, 0o644)


def add_row(project: Project) -> None:
    connection = sqlite3.connect(project.database)
    connection.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    connection.commit()
    connection.close()


def flip_journal_mode(project: Project) -> None:
    connection = sqlite3.connect(project.database)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.close()


def touch(project: Project) -> None:
    for path in (project.mcp, project.identity, project.identity / "identity.json"):
        os.utime(path, (1, 1))


def copy_database_over_itself(project: Project) -> None:
    connection = sqlite3.connect(project.database)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE accounts SET balance = balance + 0")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("change", [flip_journal_mode, touch, copy_database_over_itself, lambda project: None])
def test_equal_state_gives_an_equal_digest(project: Project, change: Callable[[Project], object]) -> None:
    """Journal mode, times and change counters are no content."""
    first = project.capture("v1")
    change(project)
    assert project.capture("v2").digest == first.digest


def test_checkpoint_does_not_change_the_digest(project: Project) -> None:
    """Rows in the WAL and rows in the file are the same rows."""
    connection = sqlite3.connect(project.database)
    connection.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    connection.commit()
    side = project.folder / "with-wal"
    shutil.copytree(project.state, side / "state", symlinks=True)
    connection.close()  # the last connection checkpoints the WAL
    assert not Path(f"{project.database}-wal").exists()
    assert (side / "state" / "app.db-wal").stat().st_size > 0
    elsewhere = copy.copy(project)
    elsewhere.folder = side
    assert elsewhere.capture("v1").digest == project.capture("v1").digest


def test_moved_project_with_another_retention_has_the_same_digest(project: Project, make_project: MakeProject) -> None:
    """Path, time and policy are no content: equal state has an equal digest on any machine."""
    other = make_project("somewhere-else")
    catalogue, assets = other.pipeline.catalogue, other.settings.release.assets
    request = CaptureRequest(snapshot_id="x", release_id=None, kind="safety", retention_limit=99)
    for path in (other.identity / "keys" / "private.pem", other.mcp):
        os.utime(path, (5, 5))
    assert capture_snapshot(catalogue, assets, request).digest == project.capture().digest


def replace_link(project: Project) -> None:
    (project.identity / "current").unlink()
    (project.identity / "current").symlink_to("identity.json")


def link_becomes_file(project: Project) -> None:
    (project.identity / "current").unlink()
    (project.identity / "current").write_text("keys/private.pem")


DIFFERENCES: dict[str, Callable[[Project], object]] = {
    "row": add_row,
    "bytes of a file": lambda p: p.mcp.write_text('{"mcpServers": {} }'),
    "bytes in a folder": lambda p: (p.identity / "identity.json").write_text('{"id": "two"}'),
    "mode of a file": lambda p: os.chmod(p.mcp, 0o600),
    "mode in a folder": lambda p: os.chmod(p.identity / "identity.json", 0o600),
    "mode of a folder": lambda p: os.chmod(p.identity, 0o710),
    "mode of an inner folder": lambda p: os.chmod(p.identity / "keys", 0o710),
    "mode of the database": lambda p: os.chmod(p.database, 0o600),
    "presence of a file": lambda p: p.extra.write_text(""),
    "absence in a folder": lambda p: (p.identity / "identity.json").unlink(),
    "an empty folder more": lambda p: (p.identity / "more").mkdir(),
    "an empty folder less": lambda p: (p.identity / "keys" / "empty").rmdir(),
    "target of a link": replace_link,
    "a link that became a file": link_becomes_file,
    "a name": lambda p: (p.identity / "identity.json").rename(p.identity / "identity.jso"),
}


@pytest.mark.parametrize("difference", list(DIFFERENCES))
def test_different_state_gives_a_different_digest(project: Project, difference: str) -> None:
    """The digest covers everything that a restore brings back."""
    first = project.capture("v1")
    DIFFERENCES[difference](project)
    assert project.capture("v2").digest != first.digest


def test_owner_and_times_are_kept_on_the_copies(project: Project) -> None:
    """They are not part of the digest."""
    os.utime(project.mcp, (1000, 2000))
    os.utime(project.identity / "keys", (1000, 3000))
    if os.geteuid() == 0:
        os.chown(project.mcp, 12345, 54321)
    project.capture()
    copy = (snapshot_folder(project) / "assets" / "mcp" / "mcp.json").stat()
    assert copy.st_mtime == 2000
    assert (copy.st_uid, copy.st_gid) == (project.mcp.stat().st_uid, project.mcp.stat().st_gid)
    assert (snapshot_folder(project) / "assets" / "identity" / "identity" / "keys").stat().st_mtime == 3000


def test_links_are_never_followed_out_of_the_asset(project: Project) -> None:
    """A link is recorded as a link; its target outside is not captured."""
    outside = project.folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s3cret")
    (project.identity / "away").symlink_to(outside)
    (project.identity / "dangling").symlink_to("/nowhere/at/all")
    (project.identity / "loop").symlink_to("loop")
    project.capture()
    identity = snapshot_folder(project) / "assets" / "identity" / "identity"
    assert os.readlink(identity / "away") == str(outside)
    assert os.readlink(identity / "loop") == "loop"
    assert "secret" not in [path.name for path in snapshot_folder(project).rglob("*")]


@pytest.mark.parametrize("asset", ["identity", "mcp", "database"])
def test_asset_that_is_a_link_is_refused(project: Project, asset: str) -> None:
    """The link may lead to another folder later; the message names it."""
    path = getattr(project, asset)
    real = path.with_name(f"real-{path.name}")
    path.rename(real)
    path.symlink_to(real.name)
    with pytest.raises(StageFailed, match=str(path)):
        project.capture()
    assert project.pipeline.catalogue.published() == ([], [])


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_pipe_or_socket_is_refused_by_name(project: Project, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe does not make the capture wait, and the attempt leaves no file."""
    path = project.identity / "special"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        monkeypatch.chdir(project.identity)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("special")
    with pytest.raises(StageFailed, match=rf"{path} is a .*{kind}"):
        project.capture()
    assert project.leftovers() == []


@pytest.mark.parametrize("asset", ["identity", "mcp"])
def test_asset_of_the_wrong_kind_is_refused_by_name(project: Project, asset: str) -> None:
    """A folder in place of a file, and a file in place of a folder."""
    path = getattr(project, asset)
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("x")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(StageFailed, match=str(path)):
        project.capture()


@pytest.mark.parametrize("name", ["with space", "\u00e4\u00f6", "new\nline", "-dash", "quote'\"", "~", "a" * 255])
def test_file_names_with_special_characters_are_captured(project: Project, name: str) -> None:
    """A folder may contain any name that the system allows."""
    (project.identity / name).write_text("x")
    project.capture()
    assert name in [entry["path"] for entry in identity_entries(project)]


@pytest.mark.parametrize("what", ["name", "target"])
def test_names_that_are_not_utf8_are_captured(project: Project, what: str) -> None:
    """A file name or link target of arbitrary bytes causes no traceback."""
    path = os.fsencode(project.identity)
    if what == "name":
        with open(path + b"/caf\xe9", "w"):
            pass
    else:
        os.symlink(b"caf\xe9", path + b"/link")
    project.capture()
    assert project.pipeline.catalogue.published()[0]


def test_file_that_changes_during_the_capture_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy and digest are of one state of the file, the later one."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"a" * 3_000_000)
    read, reads = os.read, []

    def read_and_be_overtaken(fd: int, count: int) -> bytes:
        data = read(fd, count)
        reads.append(len(data))
        if len(reads) == 1:
            with source.open("r+b") as file:
                file.write(b"b" * 3_000_000)
        return data

    monkeypatch.setattr(os, "read", read_and_be_overtaken)
    entry = capture_file(trusted(source), trusted(copy))
    monkeypatch.undo()
    assert copy.read_bytes() == b"b" * 3_000_000
    assert entry.sha256 == hashlib.sha256(copy.read_bytes()).hexdigest()


def test_file_that_keeps_changing_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several attempts that a writer overtook end in a message, not in a mixed copy."""
    source = tmp_path / "source"
    source.write_bytes(b"a" * 100)
    read = os.read

    def read_and_be_overtaken(fd: int, count: int) -> bytes:
        data = read(fd, count)
        if not data:  # at the end of each read
            with source.open("ab") as file:
                file.write(b"b")
        return data

    monkeypatch.setattr(os, "read", read_and_be_overtaken)
    with pytest.raises(StageFailed, match="source was not stable during any of 5 reads"):
        capture_file(trusted(source), trusted(tmp_path / "copy"))


def test_captured_folder_is_placed_with_the_same_entries(project: Project) -> None:
    """Capture, place and scan return the same entries, modes included."""
    os.chmod(project.identity / "keys", 0o550)
    copy, again = project.folder / "copy", project.folder / "again"
    entries = capture_tree(trusted(project.identity), trusted(copy)).entries
    assert entries == sorted(entries, key=lambda entry: entry.path)
    place_tree(copy, trusted(again), entries, 0o750)
    assert scan_tree(trusted(again)).entries == entries == scan_tree(trusted(project.identity)).entries
    assert stat.S_IMODE(again.stat().st_mode) == 0o750


def test_existing_snapshot_id_is_refused(project: Project) -> None:
    """A published snapshot is never overwritten, and no partial folder stays."""
    first = project.capture()
    add_row(project)
    with pytest.raises(OSError):
        project.capture()
    snapshots, unreadable = project.pipeline.catalogue.published()
    assert (snapshots, unreadable) == ([first], [])
    assert project.leftovers() == []


@pytest.mark.parametrize("snapshot_id", ["../x", "a/b", "..", "", ".hidden"])
def test_snapshot_id_with_a_path_outside_the_catalogue_is_refused(project: Project, snapshot_id: str) -> None:
    """Before anything is written."""
    request = CaptureRequest(snapshot_id=snapshot_id, release_id="v1", kind="release", retention_limit=5)
    with pytest.raises(UsageError):
        capture_snapshot(project.pipeline.catalogue, project.settings.release.assets, request)
    assert project.leftovers() == []


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_safety_snapshot_contains_the_bytes_of_a_damaged_database(project: Project, suffix: str) -> None:
    """Side files are included, and the record is marked as damaged."""
    project.database.write_bytes(b"no database" * 100)
    Path(f"{project.database}{suffix}").write_bytes(b"the rest of it")
    request = CaptureRequest(snapshot_id="s", release_id=None, kind="safety", retention_limit=5, allow_damaged=True)
    record = capture_snapshot(project.pipeline.catalogue, project.settings.release.assets, request).asset("database")
    assert record is not None and record.damaged and record.exists
    remains = project.pipeline.catalogue.path("s") / record.relative_path
    assert (remains / "app.db").read_bytes() == b"no database" * 100
    assert (remains / f"app.db{suffix}").read_bytes() == b"the rest of it"
