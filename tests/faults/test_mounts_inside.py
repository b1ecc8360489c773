"""Something is mounted inside a folder asset: a rollback must neither remove it nor copy the pipeline into itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from release_tasks.assets.trees import capture_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from tests.support.faults.marks import NEEDS_MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project


def mount_inside(project: Project, mounts: Mounts, source: Path) -> Path:
    """Mount a folder inside the identity folder."""
    place = project.identity / "a volume"
    place.mkdir()
    mounts.bind(source, place)
    return place


@pytest.mark.root
@NEEDS_MOUNTS
def test_mount_inside_an_asset_survives_a_rollback(project: Project, mounts: Mounts) -> None:
    """The rollback is refused before the swap with the command to type; without the mount it restores."""
    project.capture()
    volume = project.folder / "outside"
    volume.mkdir()
    (volume / "precious").write_text("x")
    project.damage()
    place = mount_inside(project, mounts, volume)
    before = (project.identity / "identity.json").read_text()
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert f"{place} is mounted inside {project.identity}" in outcome.diagnostics[0]
    assert f"Type: umount '{place}'" in outcome.diagnostics[0]
    assert (volume / "precious").read_text() == "x"
    assert (project.identity / "identity.json").read_text() == before
    mounts.clear()
    assert project.roll_back().status == "restored"
    assert (volume / "precious").read_text() == "x"


@pytest.mark.root
@NEEDS_MOUNTS
def test_mount_inside_an_asset_blocks_a_release(project: Project, mounts: Mounts) -> None:
    """A release from which no rollback is possible is not ready; the pipeline folder is not copied into itself."""
    project.capture()
    mount_inside(project, mounts, project.pipeline.root)
    manifest = prepare(project.settings, passed_preflight(), "v2")
    assert manifest.status == "blocked"
    assert any("is mounted inside" in reason and "release.assets.identity" in reason for reason in manifest.diagnostics)


@pytest.mark.root
@NEEDS_MOUNTS
def test_flag_inside_a_mounted_asset_blocks_a_release(project: Project, mounts: Mounts) -> None:
    """Its content is overwritten, not exchanged; so a file with a flag in it would end a rollback."""
    volume = project.folder / "volume"
    project.identity.rename(volume)
    project.identity.mkdir()
    mounts.bind(volume, project.identity)
    assert prepare(project.settings, passed_preflight(), "v1").status == "ready"
    (project.identity / "keys" / "log").touch()
    path = str(project.identity / "keys" / "log")
    mounts.run(["chattr", "+a", path], ["chattr", "-a", path])
    manifest = prepare(project.settings, passed_preflight(), "v2")
    assert manifest.status == "blocked"
    assert f"{path} is append-only, so a rollback cannot replace it. Type: chattr -a {path}" in manifest.diagnostics[0]


def test_folder_is_not_copied_into_itself(tmp_path: Path) -> None:
    """However the folder of the copy got into the original: by a mount, a link, or a move."""
    source = tmp_path / "source"
    (source / "pipeline" / "snapshots").mkdir(parents=True)
    (source / "a").write_text("x")
    with pytest.raises(StageFailed, match=r"source/pipeline is the folder of the snapshots or contains it"):
        capture_tree(trusted(source), trusted(source / "pipeline" / "snapshots" / "copy"))
    assert not (source / "pipeline" / "snapshots" / "copy" / "pipeline").exists()
