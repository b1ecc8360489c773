"""Rollbacks on full disks, read-only folders and mount points: as root, on real mounts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import frozen

from release_tasks.assets import base, overwrite
from release_tasks.assets.placing import rename_into_place
from release_tasks.assets.trees import place_entry
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import Place
from release_tasks.core.records import Inode
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import PowerCut, fail_at
from tests.support.faults.listeners import on_steps
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.project import MakeProject, Project

pytestmark = [pytest.mark.slow, *MOUNTS]


def fill(folder: Path, leave: int) -> None:
    """Fill a filesystem up to its last ``leave`` bytes."""
    stat = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        file.write(b"\0" * max(stat.f_bavail * stat.f_frsize - leave, 0))


@pytest.fixture
def tmpfs_project(make_project: MakeProject, mounts: Mounts, tmp_path: Path) -> Project:
    """A project with its state on a small filesystem and its pipeline on another filesystem."""
    project = make_project("p", "delete")
    shutil.move(project.state, tmp_path / "original")
    mounts.tmpfs(project.state, "2m")
    shutil.copytree(tmp_path / "original", project.state, symlinks=True, dirs_exist_ok=True)
    return project


def test_full_state_disk_fails_and_changes_nothing(tmpfs_project: Project) -> None:
    """A folder that does not fit is not restored in part; with free space it is restored."""
    project = tmpfs_project
    (project.identity / "large").write_bytes(os.urandom(400_000))
    good = project.content()
    project.capture()
    project.damage()
    (project.identity / "large").unlink()
    before = project.content()
    fill(project.state, 100_000)
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0]
    (project.state / "filler").unlink()
    assert project.content() == before
    assert project.leftovers() == []
    assert project.roll_back().status == "restored"
    assert project.content() == good


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 65536])
def test_any_free_space_leaves_all_old_or_all_new(tmpfs_project: Project, leave: int) -> None:
    """The disk fills up at different moments: while staging, in SQLite's journal, never."""
    project = tmpfs_project
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    fill(project.state, leave)
    outcome = project.roll_back()
    (project.state / "filler").unlink()
    expected = good if outcome.status == "restored" else before
    assert project.content() == expected, outcome
    assert not project.pipeline.journal_path.exists()
    assert project.leftovers() == []


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288, 16384, 20480, 24576, 40960, 90112, 131072])
def test_full_pipeline_disk_leaves_all_old_or_all_new(
    make_project: MakeProject, mounts: Mounts, tmp_path: Path, leave: int
) -> None:
    """Without space for lock.json, safety snapshot, journal or state, the next command ends in all old or all new."""
    project = make_project("p", "delete")
    mounts.tmpfs(project.pipeline.root, "2m")
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    fill(project.pipeline.root, leave)
    with contextlib.suppress(OSError):  # the next test covers it
        project.roll_back()
    (project.pipeline.root / "filler").unlink()
    recover(project.settings)
    assert project.content() in (good, before)
    assert not project.pipeline.journal_path.exists()
    assert project.roll_back().status in ("restored", "noop")
    assert project.content() == good


@pytest.mark.parametrize("leave", [0, 4096])
def test_full_pipeline_disk_gives_a_failed_outcome(make_project: MakeProject, mounts: Mounts, leave: int) -> None:
    """``failed`` with a message and no exception, even when no byte can be written."""
    project = make_project("p", "delete")
    mounts.tmpfs(project.pipeline.root, "2m")
    project.capture()
    project.damage()
    fill(project.pipeline.root, leave)
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_read_only_state_folder_fails_and_changes_nothing(make_project: MakeProject, mounts: Mounts, mode: str) -> None:
    """On a read-only filesystem the rollback fails with a message; once it is writable, it restores."""
    project = make_project("p", mode)
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    mounts.read_only(project.state)
    outcome = project.roll_back()
    mounts.clear()
    assert outcome.status == "failed"
    assert "ead-only" in outcome.diagnostics[0] and str(project.state) in outcome.diagnostics[0], outcome.diagnostics
    assert project.content() == before
    assert project.leftovers() == []
    assert project.roll_back().status == "restored"
    assert project.content() == good


@pytest.mark.parametrize("name", ["app.db", "identity", "mcp.json", "extra.json"])
def test_immutable_asset_leaves_all_old_or_all_new(project: Project, mounts: Mounts, name: str) -> None:
    """With ``chattr +i`` on one asset all assets stay unchanged or all are restored."""
    good = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    before = project.content()
    mounts.immutable(project.state / name)
    outcome = project.roll_back()
    mounts.clear()
    recover(project.settings)
    now = project.content()
    assert now == (good if outcome.status == "restored" else before), outcome
    assert project.roll_back().status in ("restored", "noop")
    assert project.content() == good
    assert project.leftovers() == []


def test_immutable_file_in_a_folder_does_not_block_a_rollback(project: Project, mounts: Mounts) -> None:
    """Only the old folder cannot be removed after the exchange: this rollback and the next one restore."""
    good = project.content()
    project.capture()
    project.damage()
    file = project.identity / "intruder"
    inode = file.stat().st_ino
    mounts.immutable(file)
    try:
        outcome = project.roll_back()
        assert project.content() == good
        assert outcome.status == "restored", outcome.diagnostics
        assert project.roll_back(force=True).status == "restored"
        recover(project.settings)
    finally:
        for path in project.state.rglob("*"):
            if path.lstat().st_ino == inode:
                subprocess.run(["chattr", "-i", str(path)], check=True)


def test_immutable_state_folder_fails_before_any_rename(project: Project, mounts: Mounts) -> None:
    """``chattr +i`` on the folder that contains the assets."""
    project.capture()
    project.damage()
    before = project.content()
    mounts.immutable(project.state)
    outcome = project.roll_back()
    mounts.clear()
    assert outcome.status == "failed"
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert project.roll_back().status == "restored"


def test_append_only_audit_log_is_enough(project: Project, mounts: Mounts) -> None:
    """A rollback only appends to the log."""
    project.capture()
    project.damage()
    project.roll_back()
    log = project.pipeline.root / "rollback-audit.log"
    mounts.run(["chattr", "+a", str(log)], ["chattr", "-a", str(log)])
    assert project.roll_back(force=True).status == "restored"
    assert project.pipeline.audit.verify(project.pipeline.anchors()).intact


def bind_file(project: Project, mounts: Mounts, path: Path) -> None:
    """Put a bind mount over a file, as a container does with a single config file."""
    source = project.folder / f"outside-{path.name}"
    shutil.copy2(path, source)
    mounts.bind(source, path)


def test_bind_mounted_file_is_restored_and_rolled_back(project: Project, mounts: Mounts) -> None:
    """The exchange gives EBUSY, so the content is overwritten in place, also from the safety snapshot."""
    good = project.content()
    project.capture()
    bind_file(project, mounts, project.mcp)
    project.mcp.write_text('{"a much longer": "content than it had before, so that it has to be cut"}')
    (project.identity / "identity.json").write_text('{"id": "other"}')
    bad = project.content()
    outcome = project.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert (project.folder / "outside-mcp.json").read_text() == '{"mcpServers": {}}'
    assert project.roll_back().status == "noop"
    assert project.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.leftovers() == []


def test_bind_mounted_file_is_undone_when_a_later_step_fails(
    project: Project, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undo copies from the safety snapshot, because the inode never changes."""
    project.overrides["assets"] = {
        "database": {"sqlite": "state/app.db"},
        "mcp": {"file": "state/mcp.json"},
        "identity": {"directory": "state/identity"},
    }
    project.capture()
    bind_file(project, mounts, project.mcp)
    project.mcp.write_text('{"other": true}')
    (project.identity / "identity.json").write_text('{"id": "other"}')
    before = project.content()

    def fail_for_identity(live: Place, rollback_id: str, inode: Inode | None) -> bool:
        if live.path == project.identity:
            raise OSError(5, "Input/output error", str(live.path))
        return rename_into_place(live, rollback_id, inode)

    with monkeypatch.context() as patch:
        patch.setattr(base, "rename_into_place", fail_for_identity)
        outcome = project.roll_back()
        assert outcome.status == "failed"
        assert project.mcp.read_text() == '{"other": true}' or project.pipeline.journal_path.exists()
    recover(project.settings)
    assert project.content() == before
    assert project.leftovers() == []


def test_bind_mounted_file_that_must_be_removed_fails_all(project: Project, mounts: Mounts) -> None:
    """It cannot be removed: the rollback fails with a message and all assets stay unchanged."""
    project.capture()
    project.extra.write_text("{}")
    bind_file(project, mounts, project.extra)
    (project.identity / "identity.json").write_text('{"id": "other"}')
    before = project.content()
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert "extra.json" in outcome.diagnostics[0]
    assert project.content() == before
    assert project.leftovers() == []


def test_folder_that_is_a_mount_point_is_restored_and_rolled_back(project: Project, mounts: Mounts) -> None:
    """A volume mounted as identity/ is overwritten in place, with modes, links and empty folders."""
    good = project.content()
    project.capture()
    source = project.folder / "volume"
    shutil.copytree(project.identity, source, symlinks=True)
    mounts.bind(source, project.identity)
    (project.identity / "identity.json").unlink()
    (project.identity / "identity.json").mkdir()
    (project.identity / "current").unlink()
    (project.identity / "current").write_text("a file where a link was")
    (project.identity / "intruder").mkdir()
    (project.identity / "intruder" / "x").write_text("x")
    shutil.rmtree(project.identity / "keys" / "empty")
    os.chmod(project.identity / "keys", 0o777)
    bad = project.content()
    outcome = project.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert project.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.leftovers() == []


def test_bind_mounted_database_is_restored(make_project: MakeProject, mounts: Mounts) -> None:
    """A sound database is restored through SQLite, a damaged one is overwritten in place."""
    project = make_project("p", "delete")
    good = project.content()
    project.capture()
    bind_file(project, mounts, project.database)
    project.damage()
    assert project.roll_back().status == "restored"
    assert project.content() == good
    with project.database.open("r+b") as file:
        file.write(bytes(4096))
    assert project.roll_back().status == "restored"
    assert project.content() == good
    assert project.leftovers() == []


def test_damaged_bind_mounted_database_is_undone_when_a_later_step_fails(
    make_project: MakeProject, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undo overwrites it with its remains."""
    project = make_project("p", "delete")
    project.capture()
    bind_file(project, mounts, project.database)
    project.mcp.write_text("{}")
    with project.database.open("r+b") as file:
        file.write(bytes(4096))
    remains = project.database.read_bytes()

    def fail_for_mcp(live: Place, rollback_id: str, inode: Inode | None) -> bool:
        if live.path == project.mcp:
            raise OSError(5, "Input/output error", str(live.path))
        return rename_into_place(live, rollback_id, inode)

    with monkeypatch.context() as patch:
        patch.setattr(base, "rename_into_place", fail_for_mcp)
        assert project.roll_back().status == "failed"
    recover(project.settings)
    assert project.database.read_bytes() == remains
    assert project.mcp.read_text() == "{}"


@frozen
class Overlay:
    """A project with a state that becomes the lower layer of an overlay, as in the image of a container."""

    project: Project
    mounts: Mounts
    folder: Path

    def mount(self) -> None:
        """Mount the overlay over the state. No file is opened, because the first open for writing copies it up."""
        shutil.copytree(self.project.state, self.folder / "layer", symlinks=True)
        self.mounts.overlay(self.folder / "layer", self.folder / "overlay", self.project.state)


@pytest.fixture
def overlay(make_project: MakeProject, mounts: Mounts, tmp_path: Path) -> Overlay:
    """A project and the overlay over its state, not mounted yet."""
    return Overlay(make_project("p", "delete"), mounts, tmp_path)


def test_folder_in_a_lower_layer_is_restored_and_rolled_back(overlay: Overlay) -> None:
    """The exchange gives EXDEV, as in a container whose image contains identity/."""
    project = overlay.project
    good = project.content()
    project.capture()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    bad = project.content()
    overlay.mount()
    assert project.content() == bad
    with pytest.raises(OSError, match="cross-device"):
        os.rename(project.identity, project.state / "elsewhere")
    outcome = project.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert project.roll_back().status == "noop"
    assert project.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.leftovers() == []


def test_folder_in_a_lower_layer_that_was_absent_is_removed(overlay: Overlay) -> None:
    """It cannot be renamed, but it can be removed."""
    project = overlay.project
    project.overrides["assets.more"] = {"directory": "state/more", "required": False}
    project.capture()
    (project.state / "more").mkdir()
    (project.state / "more" / "file").write_text("x")
    overlay.mount()
    outcome = project.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert not (project.state / "more").exists()


def test_interrupted_overwrite_of_a_folder_is_finished_by_recover(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overwrite in place is not atomic; the journal records it and recover finishes it."""
    project = overlay.project
    good = project.content()
    project.capture()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    bad = project.content()
    overlay.mount()
    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "place_entry", fail_at(1, place_entry, PowerCut()))
        with pytest.raises(PowerCut):
            project.roll_back()
    assert project.content() not in (good, bad)
    assert recover(project.settings).status == "finished"
    assert project.content() == good
    assert project.leftovers() == []


def test_failed_overwrite_of_a_folder_is_undone(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the middle of an overwrite in place ends in the old state."""
    project = overlay.project
    project.capture()
    project.damage()
    before = project.content()
    overlay.mount()
    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "place_entry", fail_at(1, place_entry, StageFailed("it cannot be done.")))
        assert project.roll_back().status == "failed"
    assert project.content() == before
    assert project.leftovers() == []
    assert not project.pipeline.journal_path.exists()


def test_state_volume_that_disappears_in_the_swap_fails_with_a_message(tmpfs_project: Project, mounts: Mounts) -> None:
    """The volume is unmounted between staging and swap; once it is back, recover ends in all old or all new."""
    project = tmpfs_project
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    hidden = project.folder / "hidden"
    hidden.mkdir()
    subprocess.run(["mount", "--bind", str(project.state), str(hidden)], check=True)
    mounts.undo.append(["umount", "-l", str(hidden)])

    def unmount(step: str) -> None:
        if step == "swap":
            subprocess.run(["umount", "-l", str(project.state)], check=True)

    outcome = rollback(project.settings, RollbackRequest(), on_steps(unmount))
    assert outcome.status == "failed", outcome
    subprocess.run(["mount", "--bind", str(hidden), str(project.state)], check=True)
    recover(project.settings)
    assert project.content() in (good, before)
    assert project.leftovers() == []
