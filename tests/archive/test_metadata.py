"""Metadata of a snapshot is accepted only when it is unchanged."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.verify import require_intact, verify_all
from release_tasks.assets.stored import stored_path
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.errors import StageFailed
from tests.support.project import Project
from tests.support.snapshots import v1_folder, write_older_metadata


def change_value(value: Any) -> Any:
    """Return a value of the same type that differs."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    if isinstance(value, list):
        return value[:-1]
    return {"altered": True}


def every_change(document: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """Return each key at any depth, with a function that changes it in a document."""
    found: list[tuple[str, Callable[[Any], Any]]] = []

    def visit(value: Any, path: tuple[Any, ...]) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            here = (*path, key)
            found.append((".".join(map(str, here)), functools.partial(alter, path=here)))
            visit(inner, here)

    def alter(target: Any, path: tuple[Any, ...]) -> None:
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = change_value(target[path[-1]])

    visit(document, ())
    return found


def test_every_altered_metadata_field_is_detected(catalogue: Catalogue) -> None:
    """The checksum covers the document: no key at any depth can be changed or removed."""
    path = v1_folder(catalogue) / "metadata.json"
    original = json.loads(path.read_text())
    changes = every_change(original)
    assert len(changes) > 50
    for name, change in changes:
        document = json.loads(json.dumps(original))
        change(document)
        path.write_text(json.dumps(document))
        (verdict,) = verify_all(catalogue)
        assert verdict.status == "damaged", name
        with pytest.raises(StageFailed, match=r"v1_snapshot"):
            catalogue.get("v1_snapshot")
        with pytest.raises(StageFailed, match="cannot be determined"):
            catalogue.latest()


@pytest.mark.parametrize(
    "key", ["formatVersion", "checksum", "digest", "sequence", "kind", "assets", "snapshotId", "audit"]
)
def test_removed_metadata_key_is_detected(catalogue: Catalogue, key: str) -> None:
    """Without its format version a document does not count as one of the older tool."""
    path = v1_folder(catalogue) / "metadata.json"
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    (verdict,) = verify_all(catalogue)
    assert verdict.status == "damaged"
    with pytest.raises(StageFailed):
        catalogue.latest()


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the metadata and compute its checksum again, as an attacker who knows the format can."""
    document = json.loads(path.read_text())
    change(document)
    del document["checksum"]
    document["checksum"] = hashlib.sha256(canonical_bytes(document)).hexdigest()
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "relative",
    ["../../../state/mcp.json", "/etc/passwd", "assets/mcp/../identity/identity", "assets/identity/mcp.json",
     "assets/mcp/..", "assets/mcp/.", "assets/mcp/", "assets//mcp.json", "metadata.json", "", "assets/mcp/a\x00b"],
)  # fmt: skip
def test_forged_path_never_leaves_the_folder_of_its_asset(catalogue: Catalogue, relative: str) -> None:
    """Only assets/<key>/<name> is read, whatever a forged record contains."""

    def forge(document: dict[str, Any]) -> None:
        document["assets"][2]["relativePath"] = relative

    reseal(v1_folder(catalogue) / "metadata.json", forge)
    metadata = catalogue.get("v1_snapshot")
    with pytest.raises(StageFailed):
        stored_path(v1_folder(catalogue), metadata.assets[2])
    with pytest.raises(StageFailed, match="refused"):
        require_intact(catalogue, metadata)


@pytest.mark.parametrize(
    "forge",
    [
        lambda d: d["assets"][2].update(sha256="0" * 64),
        lambda d: d["assets"][2].update(mode=0o4777),
        lambda d: d["assets"].pop(),
        lambda d: d["assets"].append(d["assets"][0]),
        lambda d: d.update(digest="0" * 64),
    ],
)
def test_forged_records_with_a_new_checksum_are_detected(
    catalogue: Catalogue, forge: Callable[[dict[str, Any]], Any]
) -> None:
    """The digest of the state covers the records."""
    reseal(v1_folder(catalogue) / "metadata.json", forge)
    with pytest.raises(StageFailed, match="refused"):
        require_intact(catalogue, catalogue.get("v1_snapshot"))


def test_damaged_database_with_a_matching_digest_is_detected(catalogue: Catalogue) -> None:
    """Verification runs the database check on the stored copy too."""
    path = v1_folder(catalogue) / "assets" / "database" / "app.db"
    data = bytearray(path.read_bytes())
    data[4096:6000] = b"\xff" * (6000 - 4096)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()

    def forge(document: dict[str, Any]) -> None:
        document["assets"][0].update(sha256=digest, contentDigest=digest)

    reseal(v1_folder(catalogue) / "metadata.json", forge)
    (verdict,) = verify_all(catalogue)
    assert [finding.key for finding in verdict.findings] == ["*", "database"]
    assert "SQLite" in str(verdict.findings[1])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"formatVersion": true}', b'{"formatVersion": 99}', b"{}"]
)
def test_unreadable_metadata_damages_only_its_snapshot(project: Project, content: bytes) -> None:
    """The other snapshots are verified, and the latest one is not guessed."""
    for release in ("v1", "v2"):
        project.capture(release)
    catalogue = project.pipeline.catalogue
    (catalogue.path("v2_snapshot") / "metadata.json").write_bytes(content)
    assert {v.snapshot_id: v.status for v in verify_all(catalogue)} == {
        "v1_snapshot": "verified",
        "v2_snapshot": "damaged",
    }
    assert [v.status for v in verify_all(catalogue, "v2_snapshot")] == ["damaged"]
    with pytest.raises(StageFailed, match="v2_snapshot is unreadable"):
        catalogue.latest()


def test_overflowing_number_damages_only_its_snapshot(catalogue: Catalogue) -> None:
    """Commands that list snapshots show no traceback."""
    path = v1_folder(catalogue) / "metadata.json"
    path.write_text(path.read_text().replace('"retentionLimit": 5', '"retentionLimit": 1e999'))
    assert [verdict.status for verdict in verify_all(catalogue)] == ["damaged"]


def older_snapshot(catalogue: Catalogue, name: str, **changes: Any) -> None:
    """Write a snapshot as the older tool did."""
    folder = catalogue.store.folder / name
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "mcp-servers.json").write_text("{}")
    asset = {
        "key": "mcp", "relativePath": "mcp-servers.json", "kind": "file", "exists": True,
        "sourcePath": "/srv/app/mcp-servers.json", "snapshotPath": f"/srv/app/{name}/assets/mcp-servers.json",
    }  # fmt: skip
    write_older_metadata(folder, **{"assets": [asset], "releaseId": "old", **changes})


def test_snapshot_of_the_older_tool_is_unverifiable(catalogue: Catalogue) -> None:
    """It has no digests and counts as older than any snapshot of this tool."""
    older_snapshot(catalogue, "zz_old_snapshot_20250101000000")
    snapshots, unreadable = catalogue.published()
    assert [s.snapshot_id for s in snapshots] == ["zz_old_snapshot_20250101000000", "v1_snapshot"]
    assert unreadable == []
    assert [v.status for v in verify_all(catalogue)] == ["unverifiable", "verified"]
    assert catalogue.latest().snapshot_id == "v1_snapshot"


def test_snapshot_of_the_older_tool_is_refused(catalogue: Catalogue) -> None:
    """The message says that it cannot be verified."""
    older_snapshot(catalogue, "old")
    with pytest.raises(StageFailed, match="refused"):
        require_intact(catalogue, catalogue.get("old"))


@pytest.mark.parametrize(
    "changes",
    [
        {"snapshotId": "../../x"},
        {"snapshotId": "v1_snapshot"},
        {"assets": [{"key": "x", "relativePath": "../../../etc", "kind": "directory", "exists": True}]},
        {"assets": [{"key": "x", "relativePath": "/etc", "kind": "directory", "exists": True}]},
        {"assets": "x"},
        {"assets": [7]},
        {"snapshotId": 7},
        {"retentionLimit": []},
    ],
)
def test_forged_metadata_of_the_older_tool_is_refused(catalogue: Catalogue, changes: dict[str, Any]) -> None:
    """A folder with another id or a path outside is unreadable and affects no other snapshot."""
    older_snapshot(catalogue, "old", **changes)
    snapshots, unreadable = catalogue.published()
    assert [s.snapshot_id for s in snapshots] == ["v1_snapshot"]
    assert [folder.snapshot_id for folder in unreadable] == ["old"]
    assert {v.snapshot_id: v.status for v in verify_all(catalogue)} == {"old": "damaged", "v1_snapshot": "verified"}


def test_copied_snapshot_folder_is_refused(catalogue: Catalogue) -> None:
    """A copy of a folder is no second snapshot."""
    shutil.copytree(v1_folder(catalogue), catalogue.store.folder / "copy", symlinks=True)
    assert [folder.reason for folder in catalogue.published()[1]] == [
        "copy/metadata.json belongs to snapshot 'v1_snapshot'"
    ]
