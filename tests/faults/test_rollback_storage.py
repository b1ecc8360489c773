"""Disks that are full, folders that cannot be written, names that cannot be exchanged: as root, on real mounts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets import base
from release_tasks.core.errors import StageFailed
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.telling import at_steps
from tests.support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]


def roll(project: Project, snapshot_id: str | None = None, **flags: Any) -> Any:
    return rollback(project.settings, RollbackRequest(snapshot_id=snapshot_id, **flags))


def fill(folder: Path, leave: int) -> None:
    """Take all of a filesystem's space but ``leave`` bytes."""
    stat = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        file.write(b"\0" * max(stat.f_bavail * stat.f_frsize - leave, 0))


@pytest.fixture
def tmpfs_project(make_project: Callable[..., Any], mounts: Any, tmp_path: Path) -> Any:
    """A project whose state lies on a small filesystem of its own, its pipeline on another."""
    project = make_project("p", "delete")
    shutil.move(project.state, tmp_path / "kept")
    mounts.tmpfs(project.state, "2m")
    shutil.copytree(tmp_path / "kept", project.state, symlinks=True, dirs_exist_ok=True)
    return project


def test_a_full_disk_under_the_state_is_failed_and_touches_nothing(tmpfs_project: Any) -> None:
    """A restored folder that does not fit is not half there; with room again it restores."""
    project = tmpfs_project
    (project.identity / "large").write_bytes(os.urandom(400_000))
    good = project.content()
    project.capture()
    project.damage()
    (project.identity / "large").unlink()
    before = project.content()
    fill(project.state, 100_000)
    outcome = roll(project)
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0]
    (project.state / "filler").unlink()
    assert project.content() == before
    assert project.strays() == []
    assert roll(project).status == "restored"
    assert project.content() == good


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 65536])
def test_whatever_room_there_is_it_is_restored_or_as_before(tmpfs_project: Any, leave: int) -> None:
    """The disk fills up at another moment each time: in staging, in SQLite's journal, nowhere."""
    project = tmpfs_project
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    fill(project.state, leave)
    outcome = roll(project)
    (project.state / "filler").unlink()
    expected = good if outcome.status == "restored" else before
    assert project.content() == expected, outcome
    assert not project.pipeline.journal_path.exists()
    assert project.strays() == []


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288, 16384, 20480, 24576, 40960, 90112, 131072])
def test_a_full_disk_under_the_pipeline_is_failed_or_restored_never_mixed(
    make_project: Callable[..., Any], mounts: Any, tmp_path: Path, leave: int
) -> None:
    """No room for lock note, safety snapshot, journal or state: all old or all new after the next command."""
    project = make_project("p", "delete")
    mounts.tmpfs(project.pipeline.root, "2m")
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    fill(project.pipeline.root, leave)
    with contextlib.suppress(OSError):  # has a test of its own
        roll(project)
    (project.pipeline.root / "filler").unlink()
    recover(project.settings)
    assert project.content() in (good, before)
    assert not project.pipeline.journal_path.exists()
    assert roll(project).status in ("restored", "noop")
    assert project.content() == good


@pytest.mark.parametrize("leave", [0, 4096])
def test_a_full_disk_under_the_pipeline_is_an_outcome(
    make_project: Callable[..., Any], mounts: Any, leave: int
) -> None:
    """``failed`` with a sentence, not an exception, also when nothing at all can be written."""
    project = make_project("p", "delete")
    mounts.tmpfs(project.pipeline.root, "2m")
    project.capture()
    project.damage()
    fill(project.pipeline.root, leave)
    outcome = roll(project)
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_read_only_state_folder_is_failed_and_touches_nothing(
    make_project: Callable[..., Any], mounts: Any, mode: str
) -> None:
    """A filesystem that went read-only: a sentence, and it works once it is writable."""
    project = make_project("p", mode)
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    mounts.read_only(project.state)
    outcome = roll(project)
    mounts.clear()
    assert outcome.status == "failed"
    assert "ead-only" in outcome.diagnostics[0]
    assert project.content() == before
    assert project.strays() == []
    assert roll(project).status == "restored"
    assert project.content() == good


@pytest.mark.parametrize("name", ["app.db", "identity", "mcp.json", "extra.json"])
def test_one_asset_that_cannot_be_changed_fails_all_of_them(project: Project, mounts: Any, name: str) -> None:
    """chattr +i on one: all is as before, or all is restored around it."""
    good = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    before = project.content()
    mounts.immutable(project.state / name)
    outcome = roll(project)
    mounts.clear()
    recover(project.settings)
    now = project.content()
    assert now == (good if outcome.status == "restored" else before), outcome
    assert roll(project).status in ("restored", "noop")
    assert project.content() == good
    assert project.strays() == []


def test_a_file_inside_a_folder_that_cannot_be_removed_bars_nothing(project: Project, mounts: Any) -> None:
    """The exchange went well and only the old folder cannot be discarded: restored, with a remark; the next one too."""
    good = project.content()
    project.capture()
    project.damage()
    file = project.identity / "intruder"
    inode = file.stat().st_ino
    mounts.immutable(file)
    try:
        outcome = roll(project)
        assert project.content() == good
        assert outcome.status == "restored", outcome.diagnostics
        assert roll(project, force=True).status == "restored"
        recover(project.settings)
    finally:
        for path in project.state.rglob("*"):
            if path.lstat().st_ino == inode:
                subprocess.run(["chattr", "-i", str(path)], check=True)


def test_an_immutable_folder_fails_before_anything_moves(project: Project, mounts: Any) -> None:
    """chattr +i on the folder that holds the assets."""
    project.capture()
    project.damage()
    before = project.content()
    mounts.immutable(project.state)
    outcome = roll(project)
    mounts.clear()
    assert outcome.status == "failed"
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert roll(project).status == "restored"


def test_an_append_only_audit_log_is_enough(project: Project, mounts: Any) -> None:
    """The log is only ever appended to."""
    project.capture()
    project.damage()
    roll(project)
    log = project.pipeline.root / "rollback-audit.log"
    mounts.run(["chattr", "+a", str(log)], ["chattr", "-a", str(log)])
    assert roll(project, force=True).status == "restored"
    assert project.pipeline.audit.verify(project.pipeline.anchors()).intact


def bind_file(project: Project, mounts: Any, path: Path) -> None:
    """Put a bind mount over a file, as a container does with a single config file."""
    source = project.folder / f"outside-{path.name}"
    shutil.copy2(path, source)
    mounts.bind(source, path)


def test_a_bind_mounted_file_is_restored_and_goes_back(project: Project, mounts: Any) -> None:
    """EBUSY at the exchange: the content is written in place; the way back works as well."""
    good = project.content()
    project.capture()
    bind_file(project, mounts, project.mcp)
    project.mcp.write_text('{"a much longer": "content than it had before, so that it has to be cut"}')
    (project.identity / "identity.json").write_text('{"id": "other"}')
    bad = project.content()
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert (project.folder / "outside-mcp.json").read_text() == '{"mcpServers": {}}'
    assert roll(project).status == "noop"
    assert roll(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.strays() == []


def test_a_bind_mounted_file_goes_back_when_a_later_step_fails(
    project: Project, mounts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undone from the safety snapshot, since the inode is the same one all along."""
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
    real = base.rename_into_place

    def place(live: Path, *rest: Any) -> bool:
        if live == project.identity:
            raise OSError(5, "Input/output error", str(live))
        return real(live, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(base, "rename_into_place", place)
        outcome = roll(project)
        assert outcome.status == "failed"
        assert project.mcp.read_text() == '{"other": true}' or project.pipeline.journal_path.exists()
    recover(project.settings)
    assert project.content() == before
    assert project.strays() == []


def test_a_bind_mounted_file_that_should_be_absent_fails_all(project: Project, mounts: Any) -> None:
    """It cannot be removed: a sentence, and everything as it was."""
    project.capture()
    project.extra.write_text("{}")
    bind_file(project, mounts, project.extra)
    (project.identity / "identity.json").write_text('{"id": "other"}')
    before = project.content()
    outcome = roll(project)
    assert outcome.status == "failed"
    assert "extra.json" in outcome.diagnostics[0]
    assert project.content() == before
    assert project.strays() == []


def test_a_folder_that_is_a_mount_point_is_restored_and_goes_back(project: Project, mounts: Any) -> None:
    """A volume mounted as identity/: written in place, modes, links and empty folders too."""
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
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert roll(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.strays() == []


def test_a_bind_mounted_database_is_restored(make_project: Callable[..., Any], mounts: Any) -> None:
    """Sound, through SQLite; too damaged, written in place."""
    project = make_project("p", "delete")
    good = project.content()
    project.capture()
    bind_file(project, mounts, project.database)
    project.damage()
    assert roll(project).status == "restored"
    assert project.content() == good
    with project.database.open("r+b") as file:
        file.write(bytes(4096))
    assert roll(project).status == "restored"
    assert project.content() == good
    assert project.strays() == []


def test_a_damaged_bind_mounted_database_goes_back_when_a_later_step_fails(
    make_project: Callable[..., Any], mounts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its remains are written back in place."""
    project = make_project("p", "delete")
    project.capture()
    bind_file(project, mounts, project.database)
    project.mcp.write_text("{}")
    with project.database.open("r+b") as file:
        file.write(bytes(4096))
    remains = project.database.read_bytes()
    real = base.rename_into_place

    def place(live: Path, staged: Path, wanted: Any) -> bool:
        if live == project.mcp:
            raise OSError(5, "Input/output error", str(live))
        return real(live, staged, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(base, "rename_into_place", place)
        assert roll(project).status == "failed"
    recover(project.settings)
    assert project.database.read_bytes() == remains
    assert project.mcp.read_text() == "{}"


@pytest.fixture
def lower(make_project: Callable[..., Any], tmp_path: Path) -> tuple[Any, Path]:
    """A project and the folder that becomes the lower layer of its state."""
    project = make_project("p", "delete")
    layer = tmp_path / "layer"
    return project, layer


def test_an_overlays_lower_folder_is_restored_and_goes_back(
    lower: tuple[Any, Path], mounts: Any, tmp_path: Path
) -> None:
    """EXDEV at the exchange, as in a container whose identity/ came with the image."""
    project, layer = lower
    good = project.content()
    project.capture()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    shutil.copytree(project.state, layer, symlinks=True)
    bad = project.content()
    mounts.overlay(layer, tmp_path / "overlay", project.state)
    assert project.content() == bad
    with pytest.raises(OSError, match="cross-device"):
        os.rename(project.identity, project.state / "elsewhere")
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == good
    assert roll(project).status == "noop"
    assert roll(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.strays() == []


def test_an_overlays_lower_folder_that_was_absent_is_absent_again(
    lower: tuple[Any, Path], mounts: Any, tmp_path: Path
) -> None:
    """It cannot be renamed away, but it can be removed."""
    project, layer = lower
    project.overrides["assets.more"] = {"directory": "state/more", "required": False}
    project.capture()
    (project.state / "more").mkdir()
    (project.state / "more" / "file").write_text("x")
    shutil.copytree(project.state, layer, symlinks=True)
    mounts.overlay(layer, tmp_path / "overlay", project.state)
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert not (project.state / "more").exists()


def test_a_mirrored_folder_that_cannot_be_finished_is_put_right_by_recover(
    lower: tuple[Any, Path], mounts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in place is not atomic: the journal says so, and a run that ended in it is finished."""
    from release_tasks.assets import overwrite

    project, layer = lower
    good = project.content()
    project.capture()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    shutil.copytree(project.state, layer, symlinks=True)
    bad = project.content()
    mounts.overlay(layer, tmp_path / "overlay", project.state)

    class PowerCut(BaseException):
        pass

    calls = 0
    real = overwrite._replace_entry

    def renew(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise PowerCut
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "_replace_entry", renew)
        with pytest.raises(PowerCut):
            roll(project)
    assert project.content() not in (good, bad)
    assert recover(project.settings).status == "finished"
    assert project.content() == good
    assert project.strays() == []


def test_a_mirrored_folder_goes_back_when_it_fails(
    lower: tuple[Any, Path], mounts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the middle of writing in place ends in the state before."""
    from release_tasks.assets import overwrite

    project, layer = lower
    project.capture()
    project.damage()
    shutil.copytree(project.state, layer, symlinks=True)
    before = project.content()
    mounts.overlay(layer, tmp_path / "overlay", project.state)
    calls = 0
    real = overwrite._replace_entry

    def renew(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StageFailed("it cannot be done.")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "_replace_entry", renew)
        assert roll(project).status == "failed"
    assert project.content() == before
    assert project.strays() == []
    assert not project.pipeline.journal_path.exists()


def test_a_state_folder_that_vanished_mid_way_ends_in_a_sentence(
    tmpfs_project: Any, mounts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume goes away between staging and swap; once it is back, recover ends all old or all new."""
    project = tmpfs_project
    good = project.content()
    project.capture()
    project.damage()
    before = project.content()
    hidden = project.folder / "hidden"
    hidden.mkdir()
    subprocess.run(["mount", "--bind", str(project.state), str(hidden)], check=True)
    mounts.undo.append(["umount", "-l", str(hidden)])

    def vanish(step: str) -> None:
        if step == "swap":
            subprocess.run(["umount", "-l", str(project.state)], check=True)

    outcome = rollback(project.settings, RollbackRequest(), at_steps(vanish))
    assert outcome.status == "failed", outcome
    subprocess.run(["mount", "--bind", str(hidden), str(project.state)], check=True)
    recover(project.settings)
    assert project.content() in (good, before)
    assert project.strays() == []
