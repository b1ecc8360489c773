"""The folders above the assets come back as they were at the snapshot: lost ones, and those that were changed."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.verify import verify_all
from release_tasks.assets.base import AssetKind
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import crash_after_journal_writes, fail_at
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.project import Project
from tests.support.stored_snapshots import forge, read_snapshot, reseal, write_snapshot

SERVICE = 1000  # the user of the service

pytestmark = [pytest.mark.root, NEEDS_ROOT]


def attributes(path: Path) -> tuple[str, int, int]:
    info = path.lstat()
    return oct(stat.S_IMODE(info.st_mode)), info.st_uid, info.st_gid


def all_attributes(project: Project) -> dict[str, tuple[str, int, int]]:
    folders = [project.folder / "conf", project.folder / "conf" / "live", project.state]
    return {str(folder): attributes(folder) for folder in folders if folder.exists()}


@pytest.fixture
def nested(project: Project) -> Project:
    """A project whose folders belong to the user of a service, with a file two folders deep."""
    conf = project.folder / "conf"
    (conf / "live").mkdir(parents=True)
    (conf / "live" / "app.json").write_text("{}")
    project.overrides["assets.app"] = {"file": "conf/live/app.json"}
    for folder, mode in ((conf, 0o2775), (conf / "live", 0o750), (project.state, 0o755)):
        os.chown(folder, SERVICE, 33)
        os.chmod(folder, mode)
    project.capture()
    return project


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_lost_parents_come_back_with_mode_and_owner(nested: Project, umask: int) -> None:
    """Also below a folder that passes its group on, and whatever the umask is."""
    content, before = nested.content(), all_attributes(nested)
    os.chmod(nested.folder, 0o2755)
    os.chown(nested.folder, 0, 44)
    shutil.rmtree(nested.folder / "conf")
    shutil.rmtree(nested.state)
    old = os.umask(umask)
    try:
        outcome = nested.roll_back()
    finally:
        os.umask(old)
    assert outcome.status == "restored", outcome.diagnostics
    assert nested.content() == content
    assert (nested.folder / "conf" / "live" / "app.json").read_text() == "{}"
    assert all_attributes(nested) == before
    assert attributes(nested.folder) == ("0o2755", 0, 44)


CHANGES: dict[str, Callable[[Path], object]] = {
    "no access": lambda folder: os.chmod(folder, 0),
    "open to all": lambda folder: os.chmod(folder, 0o777),
    "another owner": lambda folder: os.chown(folder, 0, 0),
    "a set group bit": lambda folder: os.chmod(folder, 0o2755),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_parent_gets_its_mode_and_owner_back(nested: Project, change: str) -> None:
    """The plan names the folder; the rollback is no noop although every asset is in place, and the next one is."""
    before = all_attributes(nested)
    assert nested.roll_back(force=True).status == "restored"
    assert nested.roll_back().status == "noop"
    # In a folder of the service, a folder of another owner may be another folder: tests/neighbours/test_moved_names.py.
    inner = nested.folder / "conf" if change == "another owner" else nested.folder / "conf" / "live"
    for folder in (nested.state, inner):
        CHANGES[change](folder)
    lines = [line for line in plan_rollback(nested.settings).diagnostics if "a rollback restores it" in line]
    assert len(lines) == 2, lines
    outcome = nested.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert all_attributes(nested) == before
    assert nested.roll_back().status == "noop"
    assert outcome.safety_snapshot_id is not None
    assert nested.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert all_attributes(nested) != before  # the state before that rollback, as it was


def test_folder_outside_the_project_is_created_and_an_existing_one_is_not_changed(project: Project) -> None:
    """Other programs use the folders there, too."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name) / "top"
        (top / "data").mkdir(parents=True)
        (top / "data" / "file").write_text("outside")
        for folder, mode in ((top, 0o751), (top / "data", 0o2770)):
            os.chown(folder, SERVICE, 33)
            os.chmod(folder, mode)
        project.overrides["assets.outside"] = {"file": str(top / "data" / "file")}
        snapshot = project.capture()
        assert {str(top), str(top / "data")} <= {parent.path for parent in snapshot.parents or []}
        shutil.rmtree(top / "data")
        os.chmod(top, 0o777)
        assert project.roll_back().status == "restored"
        assert (top / "data" / "file").read_text() == "outside"
        assert attributes(top / "data") == ("0o2770", SERVICE, 33)
        assert attributes(top) == ("0o777", SERVICE, 33)


def test_undone_rollback_leaves_no_new_parents(nested: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step fails after the folders were created: they are removed again, and the other folders stay as they were."""
    shutil.rmtree(nested.folder / "conf")
    os.chmod(nested.state, 0o700)
    nested.damage()
    before, content = all_attributes(nested), nested.content()

    error = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(AssetKind, "exchange", fail_at(3, AssetKind.exchange, error))
    outcome = nested.roll_back()
    assert (outcome.status, "was undone" in outcome.diagnostics[0]) == ("failed", True), outcome.diagnostics
    assert nested.content() == content
    assert all_attributes(nested) == before
    assert not nested.pipeline.has_journal()


@pytest.mark.parametrize("writes", range(6))
def test_recovery_brings_parents_to_the_new_or_the_old_state(nested: Project, writes: int) -> None:
    """A crash at each step of the swap; recovery finishes it, or undoes it when the snapshot is damaged meanwhile."""
    content, before = nested.content(), all_attributes(nested)
    shutil.rmtree(nested.folder / "conf")
    os.chmod(nested.state, 0o700)
    nested.damage()
    bad = all_attributes(nested)
    with crash_after_journal_writes(writes):
        nested.roll_back()
    if writes % 2:
        (nested.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json").write_text("x")
        assert recover(nested.settings).status == "undone"
        assert all_attributes(nested) == bad
        return
    assert recover(nested.settings).status == "finished"
    assert (nested.content(), all_attributes(nested)) == (content, before)
    assert nested.leftovers() == []


@pytest.mark.parametrize("way", ["a link to a folder", "a link to nowhere", "a file"])
def test_nothing_is_created_below_what_replaced_a_parent(nested: Project, tmp_path: Path, way: str) -> None:
    """The rollback is refused with the path to remove, and the place that the link leads to stays empty."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    conf = nested.folder / "conf"
    shutil.rmtree(conf)
    if way == "a file":
        conf.write_text("")
    else:
        conf.symlink_to(elsewhere if way == "a link to a folder" else "nowhere")
    outcome = nested.roll_back()
    assert outcome.status == "failed"
    assert str(conf) in outcome.diagnostics[0] and "retry" in outcome.diagnostics[0], outcome.diagnostics
    assert os.listdir(elsewhere) == []
    conf.unlink()
    assert nested.roll_back().status == "restored"
    assert (conf / "live" / "app.json").exists()


def test_link_that_was_a_link_at_the_snapshot_is_followed(project: Project, tmp_path: Path) -> None:
    """The state of many services lies on another disk, behind a link; a folder below it is created again."""
    disk = tmp_path / "disk"
    (disk / "data").mkdir(parents=True)
    (disk / "data" / "file").write_text("there")
    os.chown(disk / "data", SERVICE, 33)
    (project.folder / "linked").symlink_to(disk)
    project.overrides["assets.there"] = {"file": "linked/data/file"}
    project.capture()
    before = attributes(disk / "data")
    shutil.rmtree(disk / "data")
    assert project.roll_back().status == "restored"
    assert (disk / "data" / "file").read_text() == "there"
    assert attributes(disk / "data") == before


def test_parents_of_a_forged_snapshot_reach_no_other_folder(nested: Project) -> None:
    """Only a folder above a configured asset counts, and values that no capture writes are refused."""
    folder = nested.pipeline.catalogue.path("v1_snapshot")
    original = read_snapshot(folder)
    (nested.folder / "other").mkdir(mode=0o700)
    before = attributes(nested.folder / "other"), attributes(nested.folder), attributes(nested.folder.parent)
    paths = [
        "other",
        "../other",
        "..",
        ".",
        "",
        "/",
        str(nested.folder),
        "state/../other",
        "conf/live/app.json",
        "a\0b",
    ]
    bad = [{"path": path, "mode": 0o777, "uid": SERVICE, "gid": 0} for path in paths]
    write_snapshot(folder, forge({**original, "parents": [*original["parents"], *bad]}))
    assert nested.roll_back(force=True).status == "restored"
    assert before == (attributes(nested.folder / "other"), attributes(nested.folder), attributes(nested.folder.parent))
    for values in ({"mode": -1}, {"mode": 0o10000}, {"uid": -1}, {"gid": 2**32}, {"uid": 10**30}, {"mode": "0755"}):
        document: dict[str, Any] = json.loads(json.dumps(original))
        document["parents"][0].update(values)
        write_snapshot(folder, reseal(document))
        assert "damaged" in [verdict.status for verdict in verify_all(nested.pipeline.catalogue)], values
        outcome = nested.roll_back("v1_snapshot", force=True)
        assert outcome.status == "failed" and "v1_snapshot is refused" in outcome.diagnostics[0], values


def test_snapshot_without_parents_restores_as_before(nested: Project) -> None:
    """A snapshot of format 1 does not know them: a lost folder is private, an existing one is not changed."""
    folder = nested.pipeline.catalogue.path("v1_snapshot")
    document = {**read_snapshot(folder), "formatVersion": 1}
    del document["parents"]
    write_snapshot(folder, forge(document))
    shutil.rmtree(nested.folder / "conf")
    os.chmod(nested.state, 0o777)
    assert nested.roll_back().status == "restored"
    assert attributes(nested.folder / "conf")[0] == attributes(nested.folder / "conf" / "live")[0] == "0o700"
    assert attributes(nested.state)[0] == "0o777"


def test_drill_with_private_parents_passes(nested: Project) -> None:
    """The live folders stay as they are."""
    before = all_attributes(nested)
    outcome = run_drill(nested.settings)
    assert (outcome.status, outcome.diagnostics) == ("passed", [])
    assert all_attributes(nested) == before


@contextlib.contextmanager
def owned_project() -> Iterator[Project]:
    """A project of the user of the service, where that user can reach it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        project = Project(folder, cache_settings=True)
        project.capture()
        project.damage()
        assert project.roll_back().status == "restored"  # imports everything that a rollback needs
        project.damage()
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, SERVICE, SERVICE, follow_symlinks=False)
        yield project
    finally:
        shutil.rmtree(folder)


def as_service(act: Callable[[], object]) -> int:
    """Call ``act`` in a child process with the rights of the service; return 0 when it returned."""

    def run() -> None:
        os.setgroups([])
        os.setgid(SERVICE)
        os.setuid(SERVICE)
        act()

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100, 0o555, 0o070])
def test_user_of_the_service_restores_what_it_closed_to_itself(mode: int) -> None:
    """A bad release runs chmod with the rights of the service, and the same user rolls back."""
    with owned_project() as project:
        before = attributes(project.state)
        os.chmod(project.state, mode)

        def roll_back() -> None:
            outcome = project.roll_back("v1_snapshot")
            assert outcome.status == "restored", outcome.diagnostics

        assert as_service(roll_back) == 0
        assert attributes(project.state) == before
        assert project.mcp.exists() and not project.extra.exists()


def test_failed_rollback_leaves_a_closed_parent_closed() -> None:
    """Its mode is as it was when the snapshot is refused."""
    with owned_project() as project:
        snapshots = project.folder / "pipeline" / "snapshots"
        (snapshots / "v1_snapshot" / "assets" / "mcp" / "mcp.json").write_text("altered")
        os.chmod(project.state, 0o050)

        def roll_back() -> None:
            assert project.roll_back("v1_snapshot").status == "failed"

        assert as_service(roll_back) == 0
        assert attributes(project.state)[0] == "0o50"
