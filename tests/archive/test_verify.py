"""Every changed byte of a snapshot is detected and named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.verify import require_intact, verify_all, verify_snapshot
from release_tasks.core.errors import StageFailed, UsageError
from tests.support.project import Project
from tests.support.snapshots import flip_bit, v1_folder

ASSETS = {
    "database": "assets/database/app.db",
    "mcp": "assets/mcp/mcp.json",
    "identity": "assets/identity/identity/identity.json",
}


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flip_bit,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "extended": lambda path: path.write_bytes(path.read_bytes() + b"\x00"),
    "replaced by a link": replace_by_link,
    "replaced by a folder": replace_by_folder,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.smoke
def test_unchanged_snapshot_is_verified(catalogue: Catalogue) -> None:
    """Verification checks the databases too and leaves no file in the snapshot."""
    before = sorted(path.name for path in v1_folder(catalogue).rglob("*"))
    (verdict,) = verify_all(catalogue)
    assert (verdict.snapshot_id, verdict.status, verdict.findings) == ("v1_snapshot", "verified", [])
    require_intact(catalogue, catalogue.get("v1_snapshot"))
    assert sorted(path.name for path in v1_folder(catalogue).rglob("*")) == before


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("asset", list(ASSETS))
def test_damaged_asset_is_named(catalogue: Catalogue, asset: str, damage: str) -> None:
    """The message names the asset, the recorded digest and the present one."""
    path = v1_folder(catalogue) / ASSETS[asset]
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()
    DAMAGES[damage](path)
    (verdict,) = verify_all(catalogue)
    assert verdict.status == "damaged"
    assert asset in [finding.key for finding in verdict.findings]
    with pytest.raises(StageFailed) as error:
        require_intact(catalogue, catalogue.get("v1_snapshot"))
    assert "Snapshot v1_snapshot is refused, nothing was changed" in error.value.message
    assert f"asset {asset}" in error.value.message
    assert recorded in error.value.message
    if damage in ("flipped", "truncated", "emptied", "extended"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in error.value.message


@pytest.mark.parametrize("position", [0, 18, 24, 40, 92, 99, 100, 4095, -1])
def test_every_byte_of_the_database_is_verified(catalogue: Catalogue, position: int) -> None:
    """Header bytes that a comparison of content masks are verified too."""
    path = v1_folder(catalogue) / ASSETS["database"]
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)
    assert verify_snapshot(catalogue, catalogue.get("v1_snapshot")).status == "damaged"


def link_elsewhere(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to("/etc/passwd")


def file_for_folder(root: Path) -> None:
    (root / "keys" / "empty").rmdir()
    (root / "keys" / "empty").touch()


FOLDER_CHANGES: dict[str, Callable[[Path], Any]] = {
    "file added": lambda root: (root / "more").write_text(""),
    "folder added": lambda root: (root / "more").mkdir(),
    "link added": lambda root: (root / "more").symlink_to("identity.json"),
    "folder removed": lambda root: (root / "keys" / "empty").rmdir(),
    "link removed": lambda root: (root / "current").unlink(),
    "link elsewhere": link_elsewhere,
    "file renamed": lambda root: (root / "identity.json").rename(root / "renamed.json"),
    "file for folder": file_for_folder,
    "pipe added": lambda root: os.mkfifo(root / "pipe"),
}


@pytest.mark.parametrize("change", list(FOLDER_CHANGES))
def test_changed_folder_is_detected(catalogue: Catalogue, change: str) -> None:
    """Names, kinds and link targets are content as bytes are."""
    FOLDER_CHANGES[change](v1_folder(catalogue) / "assets" / "identity" / "identity")
    verdict = verify_snapshot(catalogue, catalogue.get("v1_snapshot"))
    assert verdict.status == "damaged"
    assert {finding.key for finding in verdict.findings} == {"identity"}


@pytest.mark.parametrize("place", ["assets", "assets/mcp", "assets/identity/identity", "assets/identity/identity/keys"])
def test_folder_replaced_by_a_link_is_detected(catalogue: Catalogue, place: str) -> None:
    """A link to the same bytes is damage too."""
    path = v1_folder(catalogue) / place
    away = catalogue.store.folder.parent / "away"
    path.rename(away)
    path.symlink_to(away)
    assert verify_snapshot(catalogue, catalogue.get("v1_snapshot")).status == "damaged"


def test_snapshot_replaced_by_a_link_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    """A folder outside the catalogue is never a snapshot."""
    away = tmp_path / "away"
    v1_folder(catalogue).rename(away)
    v1_folder(catalogue).symlink_to(away)
    assert catalogue.published() == ([], [])
    with pytest.raises(UsageError):
        catalogue.get("v1_snapshot")


def test_copy_of_an_absent_asset_is_detected(catalogue: Catalogue) -> None:
    """extra.json did not exist at snapshot time, so its copy was added later."""
    path = v1_folder(catalogue) / "assets" / "extra" / "extra.json"
    path.parent.mkdir()
    path.write_text("{}")
    (verdict,) = verify_all(catalogue)
    assert (verdict.status, verdict.findings[0].key) == ("damaged", "extra")


@pytest.mark.parametrize(
    "added",
    ["assets/database/app.db-journal", "assets/database/app.db-wal", "assets/mcp/other.json", "assets/extra", "extra"],
)
def test_file_added_next_to_the_assets_is_detected(catalogue: Catalogue, added: str) -> None:
    """A journal next to a stored database changes the rows that SQLite reads."""
    (v1_folder(catalogue) / added).write_bytes(b"x" * 600)
    assert verify_snapshot(catalogue, catalogue.get("v1_snapshot")).status == "damaged"


def test_only_snapshots_with_an_intact_copy_are_named(project: Project) -> None:
    """Snapshots with a damaged or a different copy are not named."""
    for release in ("v1", "v2", "v3"):
        project.capture(release)
    project.mcp.write_text('{"mcpServers": {"other": {}}}')
    project.capture("v4")
    catalogue = project.pipeline.catalogue
    for release in ("v1", "v3"):
        flip_bit(catalogue.path(f"{release}_snapshot") / ASSETS["mcp"])
    with pytest.raises(StageFailed) as error:
        require_intact(catalogue, catalogue.get("v1_snapshot"))
    assert error.value.message.endswith(
        "An intact copy of mcp is in: v2_snapshot. To list the intact snapshots: inv release.verify"
    )


def test_good_copies_are_named_for_each_damaged_asset(project: Project) -> None:
    """Two assets are damaged, and two other snapshots each have a good copy of one."""
    project.capture("v1")
    original = project.mcp.read_text()
    project.mcp.write_text("{}")
    project.capture("v2")
    project.mcp.write_text(original)
    (project.identity / "identity.json").write_text("{}")
    project.capture("v3")
    catalogue = project.pipeline.catalogue
    for asset in ("mcp", "identity"):
        flip_bit(catalogue.path("v1_snapshot") / ASSETS[asset])
    with pytest.raises(StageFailed) as error:
        require_intact(catalogue, catalogue.get("v1_snapshot"))
    assert "v2_snapshot" in error.value.message and "v3_snapshot" in error.value.message


def test_verify_of_an_unknown_snapshot_names_the_known_ones(catalogue: Catalogue) -> None:
    """Exit code 2, and the message lists the snapshots."""
    with pytest.raises(UsageError, match=r"There is no snapshot 'v9'.*v1_snapshot"):
        verify_all(catalogue, "v9")
