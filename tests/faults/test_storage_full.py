"""Stages on disks with every amount of free space: each succeeds, or fails with the state unchanged.

The free space grows by one block from run to run, so that a different write fails each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from attrs import frozen

from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import StageFailed
from release_tasks.report.status import overview
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from tests.support.crash import crash_after_journal_writes
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import MakeProject, Project

pytestmark = MOUNTS
every_block = [pytest.mark.slow, pytest.mark.timeout(600)]
BLOCK = 4096


@frozen
class Case:
    """``where`` is the folder on the small disk (``state`` or ``pipeline``); ``is_every`` tries every block count."""

    where: str
    filesystem: str
    journal_mode: str
    is_every: bool = False


class SmallDisk:
    """A project with one folder on a small filesystem, reset for each run."""

    def __init__(self, project: Project, mounts: Mounts, folder: Path, filesystem: str, template: Path) -> None:
        self.project, self.folder, self.template = project, folder, template
        self.new = project.content()
        original = template / "original"
        if folder.exists():
            shutil.move(folder, original)
        mounts.tmpfs(folder, "4m") if filesystem == "tmpfs" else mounts.ext4(folder, 8 << 20)
        if original.exists():
            shutil.copytree(original, folder, symlinks=True, dirs_exist_ok=True)
        report = passed_preflight()
        for release in ("v1", "v2"):
            prepare(with_flags(project.settings, retention=2), report, release)
        project.damage()
        project.mcp.write_text("{}")  # prepare requires the file
        self.old = project.content()
        for saved in (project.state, project.pipeline.root):
            shutil.copytree(saved, template / saved.name, symlinks=True)

    def reset(self) -> None:
        for folder in (self.project.state, self.project.pipeline.root):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            shutil.copytree(self.template / folder.name, folder, symlinks=True, dirs_exist_ok=True)

    @property
    def filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, free: int) -> None:
        """Fill the disk up to ``free`` bytes, minus a few blocks that ext4 needs for its own records."""
        info = os.statvfs(self.folder)
        taken = max(info.f_bavail * info.f_frsize - free, 1)
        with self.filler.open("wb") as file:
            for blocks in range(16):
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, max(taken - blocks * BLOCK, 1))
                    return
        raise AssertionError(f"{taken} bytes cannot be allocated")

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def amounts(self, is_every: bool) -> Iterator[int]:
        """Reset and fill the disk for each amount of free space; the caller stops when the space is enough."""
        for blocks in range(0, 250, 1 if is_every else 9):
            self.reset()
            self.fill(blocks * BLOCK)
            yield blocks * BLOCK
        raise AssertionError("no amount of free space was enough")

    def state(self) -> str:
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else "mixed"

    def assert_intact(self, point: object) -> None:
        """Fail unless there are no leftovers, chain and snapshots are intact, and a rollback restores."""
        pipeline, settings = self.project.pipeline, self.project.settings
        assert not pipeline.journal_path.exists(), point
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (point, verdict.problems)
        assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}, point
        assert rollback(settings, RollbackRequest()).status in ("restored", "noop"), point
        assert self.state() == "new", point
        assert self.project.leftovers() == [], point


class MakeSmallDisk(Protocol):
    """Make the project of a case."""

    def __call__(self, case: Case) -> SmallDisk: ...


@pytest.fixture
def make_small_disk(make_project: MakeProject, mounts: Mounts, tmp_path: Path) -> MakeSmallDisk:
    """Return a maker of projects on a small disk."""

    def make(case: Case) -> SmallDisk:
        project = make_project("p", case.journal_mode, cache_settings=True)
        template = tmp_path / "template"
        template.mkdir()
        folder = project.state if case.where == "state" else project.pipeline.root
        return SmallDisk(project, mounts, folder, case.filesystem, template)

    return make


# Every number of blocks on both filesystems, and some numbers in memory for the fast selection.
cases = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case("pipeline", "tmpfs", "delete"), id="pipeline, some blocks"),
        pytest.param(Case("state", "tmpfs", "wal"), marks=pytest.mark.slow, id="state, some blocks"),
        pytest.param(Case("pipeline", "tmpfs", "wal", True), marks=every_block, id="pipeline, every block, wal"),
        pytest.param(Case("state", "tmpfs", "delete", True), marks=every_block, id="state, every block, delete"),
        pytest.param(Case("pipeline", "ext4", "delete", True), marks=every_block, id="pipeline, ext4, every block"),
        pytest.param(Case("state", "ext4", "wal", True), marks=every_block, id="state, ext4, every block"),
    ],
)


@cases
def test_rollback_with_any_free_space_leaves_all_old_or_all_new(
    make_small_disk: MakeSmallDisk, report_points: Callable[[int], None], case: Case
) -> None:
    """It gives an outcome and no exception; with free space the next rollback restores."""
    disk = make_small_disk(case)
    ended: Counter[str] = Counter()
    for free in disk.amounts(case.is_every):
        outcome = rollback(disk.project.settings, RollbackRequest())
        message = " ".join(outcome.diagnostics)
        disk.empty()  # on a full disk SQLite cannot read a WAL either
        found = disk.state()
        is_new = outcome.status == "restored" or "is live" in message
        assert found == ("new" if is_new else "old"), (free, outcome)
        has_journal = disk.project.pipeline.journal_path.exists()
        assert not has_journal or "is live" in message or "inv release.recover" in message, (free, outcome)
        recover(disk.project.settings)
        assert disk.state() == found or has_journal, (free, outcome)
        disk.assert_intact(free)
        ended[outcome.status] += 1
        if ended["restored"] == 2:
            break
    report_points(sum(ended.values()))
    assert ended["failed"] > 1, ended


@pytest.mark.slow
@cases
def test_recovery_with_any_free_space_finishes_undoes_or_fails(
    make_small_disk: MakeSmallDisk, report_points: Callable[[int], None], case: Case
) -> None:
    """It reports success only when the state is whole; with free space the next recovery succeeds."""
    disk = make_small_disk(case)
    settings = disk.project.settings
    ended: Counter[str] = Counter()
    for free in disk.amounts(case.is_every):
        disk.empty()
        with crash_after_journal_writes(sum(ended.values()) % 5):
            rollback(settings, RollbackRequest())
        assert disk.project.pipeline.journal_path.exists()
        disk.fill(free)
        try:
            status: str = recover(settings).status
        except StageFailed as error:
            status = "StageFailed"
            assert "inv release.recover" in error.message, (free, error.message)
        disk.empty()
        if status == "StageFailed":
            assert disk.project.pipeline.journal_path.exists() or disk.state() in ("old", "new"), free
        else:
            assert disk.state() == {"finished": "new", "undone": "old"}[status], free
        recover(settings)
        assert disk.state() in ("old", "new"), free
        assert recover(settings).status == "clean", free
        disk.assert_intact(free)
        ended[status] += 1
        if ended["finished"] == 5:
            break
    report_points(sum(ended.values()))
    assert ended["StageFailed"] or case.where == "state", ended


@cases
def test_prepare_with_any_free_space_makes_a_whole_release_or_none(
    make_small_disk: MakeSmallDisk, report_points: Callable[[int], None], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready, or blocked with a message; the earlier releases exist and the live state is unchanged."""
    # As on a disk that fills up after the check of its space, so that each write of the capture fails in turn.
    monkeypatch.setattr("release_tasks.stages.prepare.shortages", lambda _: [])
    disk = make_small_disk(case)
    pipeline, settings = disk.project.pipeline, disk.project.settings
    ended: Counter[str] = Counter()
    for free in disk.amounts(case.is_every):
        try:
            manifest = prepare(with_flags(settings, retention=2), passed_preflight(), "v3")
            status, message = str(manifest.status), " ".join(manifest.diagnostics)
        except StageFailed as error:
            status, message = "StageFailed", error.message
        disk.empty()
        latest = pipeline.latest_ready()
        assert latest is not None and latest.snapshot is not None, free
        manifests = pipeline.read_manifests()
        ready = [file.release_id for file in manifests if file.manifest is None or file.manifest.status == "ready"]
        if status == "ready":
            assert ready == ["v1", "v2", "v3"] and latest.release_id == "v3", free
        else:
            assert "space" in message or "full" in message, (free, message)
            assert ready == ["v1", "v2"] and latest.release_id == "v2", (free, message)
        assert pipeline.catalogue.get(latest.snapshot.snapshot_id), free
        assert disk.state() == "old", free
        recover(settings)
        if status != "ready":
            again = prepare(with_flags(settings, retention=2), passed_preflight(), "v3")
            assert again.status == "ready", (free, again.diagnostics)
        latest = pipeline.latest_ready()
        assert latest is not None and latest.release_id == "v3", free
        assert disk.project.leftovers() == [], free
        assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}, free
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (free, verdict.problems)
        ended[status] += 1
        if ended["ready"] == 2:
            break
    report_points(sum(ended.values()))
    assert case.where == "state" or ended["blocked"] + ended["StageFailed"] > 1, ended


def test_reading_commands_work_on_a_full_disk(make_small_disk: MakeSmallDisk) -> None:
    """status, verify and audit, when no byte can be written."""
    disk = make_small_disk(Case("pipeline", "tmpfs", "wal"))
    pipeline = disk.project.pipeline
    disk.fill(0)
    found = overview(disk.project.settings, 10)
    assert [release["releaseId"] for release in found["releases"]] == ["v2", "v1"]
    assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}
    assert pipeline.audit.verify(pipeline.anchors()).intact
    with contextlib.suppress(StageFailed):
        recover(disk.project.settings)
    disk.empty()
    assert disk.state() == "old"
