"""A disk with every amount of room, from none to enough: done, or failed with the state whole, whenever it ends.

The room left over grows by a block from try to try, so that it runs out at another write each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import StageFailed
from release_tasks.report.status import overview
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]
every_block = [pytest.mark.slow, pytest.mark.timeout(600)]
BLOCK = 4096


class PowerCut(BaseException):
    """Ends a stage as a crash does."""


class Room:
    """A project of which one folder lies on a small filesystem, laid out anew for each try."""

    def __init__(self, project: Project, mounts: Any, place: Path, kind: str, template: Path) -> None:
        self.project, self.place, self.template = project, place, template
        self.new = project.content()
        kept = template / "kept"
        if place.exists():
            shutil.move(place, kept)
        mounts.tmpfs(place, "4m") if kind == "tmpfs" else mounts.ext4(place, 8 << 20)
        if kept.exists():
            shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
        report = passed_preflight()
        for release in ("v1", "v2"):
            prepare(with_flags(project.settings, retention=2), report, release)
        project.damage()
        project.mcp.write_text("{}")  # another content: prepare requires it
        self.old = project.content()
        for folder in (project.state, project.pipeline.root):
            shutil.copytree(folder, template / folder.name, symlinks=True)

    def lay_out(self) -> None:
        for folder in (self.project.state, self.project.pipeline.root):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            shutil.copytree(self.template / folder.name, folder, symlinks=True, dirs_exist_ok=True)

    @property
    def filler(self) -> Path:
        return self.place / "filler"

    def leave(self, room: int) -> None:
        """Take all the room but so much, and a few blocks that ext4 needs to note what is taken."""
        info = os.statvfs(self.place)
        taken = max(info.f_bavail * info.f_frsize - room, 1)
        with self.filler.open("wb") as file:
            for spared in range(16):
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, max(taken - spared * BLOCK, 1))
                    return
        raise AssertionError(f"{taken} bytes cannot be taken")

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def tries(self, is_every: bool) -> Iterator[int]:
        """Lay out and fill up for each amount of room; the caller ends it once there was enough."""
        for blocks in range(0, 250, 1 if is_every else 9):
            self.lay_out()
            self.leave(blocks * BLOCK)
            yield blocks * BLOCK
        raise AssertionError("no room was ever enough")

    def state(self) -> str:
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else "mixed"

    def hold(self, point: object) -> None:
        """Nothing is left over, chain and snapshots are intact, and a rollback restores."""
        pipeline, settings = self.project.pipeline, self.project.settings
        assert not pipeline.journal_path.exists(), point
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (point, verdict.problems)
        assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}, point
        assert rollback(settings, RollbackRequest()).status in ("restored", "noop"), point
        assert self.state() == "new", point
        assert self.project.strays() == [], point


@pytest.fixture
def make_room(
    make_project: Callable[..., Any], steady: Callable[[Any], Any], mounts: Any, tmp_path: Path
) -> Callable[..., Room]:
    """Return a maker of projects with little room: ``make_room("pipeline", "ext4", "wal")``."""

    def make(where: str, kind: str, journal_mode: str) -> Room:
        project = steady(make_project("p", journal_mode))
        template = tmp_path / "template"
        template.mkdir()
        place = project.state if where == "state" else project.pipeline.root
        return Room(project, mounts, place, kind, template)

    return make


def cases() -> pytest.MarkDecorator:
    """Every block on both filesystems, and some blocks in memory for the fast selection."""
    return pytest.mark.parametrize(
        ("where", "kind", "journal_mode", "is_every"),
        [
            pytest.param("pipeline", "tmpfs", "delete", False, id="pipeline, some blocks"),
            pytest.param("state", "tmpfs", "wal", False, marks=pytest.mark.slow, id="state, some blocks"),
            pytest.param("pipeline", "tmpfs", "wal", True, marks=every_block, id="pipeline, every block, wal"),
            pytest.param("state", "tmpfs", "delete", True, marks=every_block, id="state, every block, delete"),
            pytest.param("pipeline", "ext4", "delete", True, marks=every_block, id="pipeline, ext4, every block"),
            pytest.param("state", "ext4", "wal", True, marks=every_block, id="state, ext4, every block"),
        ],
    )


@cases()
def test_a_rollback_with_any_amount_of_room_is_restored_or_as_before(
    make_room: Callable[..., Room],
    tried: Callable[[int], None],
    where: str,
    kind: str,
    journal_mode: str,
    is_every: bool,
) -> None:
    """An outcome each time, never an exception; with room again it restores."""
    room = make_room(where, kind, journal_mode)
    ended: Counter[str] = Counter()
    for left in room.tries(is_every):
        outcome = rollback(room.project.settings, RollbackRequest())
        told = " ".join(outcome.diagnostics)
        room.empty()  # without any, SQLite can read no WAL either
        found = room.state()
        assert found == "new" if outcome.status == "restored" or "is live" in told else found == "old", (left, outcome)
        has_journal = room.project.pipeline.journal_path.exists()
        assert not has_journal or "is live" in told or "inv release.recover" in told, (left, outcome)
        recover(room.project.settings)
        assert room.state() == found or has_journal, (left, outcome)
        room.hold(left)
        ended[outcome.status] += 1
        if ended["restored"] == 2:
            break
    tried(sum(ended.values()))
    assert ended["failed"] > 1, ended


@cases()
def test_a_recovery_with_any_amount_of_room_is_finished_undone_or_still_to_do(
    make_room: Callable[..., Room],
    tried: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    kind: str,
    journal_mode: str,
    is_every: bool,
) -> None:
    """The start gate says that all is well only when it is; with room again it is."""
    room = make_room(where, kind, journal_mode)
    settings, note = room.project.settings, swap.Swap._note
    told: Counter[str] = Counter()
    for left in room.tries(is_every):
        room.empty()
        crash_after(monkeypatch, sum(told.values()) % 5)
        with pytest.raises(PowerCut):
            rollback(settings, RollbackRequest())
        monkeypatch.setattr(swap.Swap, "_note", note)
        assert room.project.pipeline.journal_path.exists()
        room.leave(left)
        try:
            status = recover(settings).status
        except StageFailed as error:
            status = "StageFailed"
            assert "inv release.recover" in error.message, (left, error.message)
        room.empty()
        if status == "StageFailed":
            assert room.project.pipeline.journal_path.exists() or room.state() in ("old", "new"), left
        else:
            assert room.state() == {"finished": "new", "undone": "old"}[status], left
        recover(settings)
        assert room.state() in ("old", "new"), left
        assert recover(settings).status == "clean", left
        room.hold(left)
        told[status] += 1
        if told["finished"] == 5:
            break
    tried(sum(told.values()))
    assert told["StageFailed"] or where == "state", told


def crash_after(monkeypatch: pytest.MonkeyPatch, notes: int) -> None:
    """End the next rollback once its journal was rewritten so many times."""
    note = swap.Swap._note
    count = 0

    def noted(self: Any, step: Any) -> Any:
        nonlocal count
        count += 1
        if count > notes:
            raise PowerCut
        return note(self, step)

    monkeypatch.setattr(swap.Swap, "_note", noted)


@cases()
def test_a_prepare_with_any_amount_of_room_makes_a_whole_release_or_none(
    make_room: Callable[..., Room],
    tried: Callable[[int], None],
    where: str,
    kind: str,
    journal_mode: str,
    is_every: bool,
) -> None:
    """Blocked in a sentence, or ready; the releases before are all there, and the live state is not touched."""
    room = make_room(where, kind, journal_mode)
    pipeline, settings = room.project.pipeline, room.project.settings
    told: Counter[str] = Counter()
    for left in room.tries(is_every):
        try:
            manifest = prepare(with_flags(settings, retention=2), passed_preflight(), "v3")
            status, sentence = manifest.status, " ".join(manifest.diagnostics)
        except StageFailed as error:
            status, sentence = "StageFailed", error.message
        room.empty()
        newest = pipeline.latest_ready()
        ready = [file.release_id for file in pipeline.read_manifests() if file.manifest.status == "ready"]
        if status == "ready":
            assert ready == ["v1", "v2", "v3"] and newest.release_id == "v3", left
        else:
            assert "space" in sentence or "full" in sentence, (left, sentence)
            assert ready == ["v1", "v2"] and newest.release_id == "v2", (left, sentence)
        assert pipeline.catalogue.get(newest.snapshot.snapshot_id), left
        assert room.state() == "old", left
        recover(settings)
        if status != "ready":
            again = prepare(with_flags(settings, retention=2), passed_preflight(), "v3")
            assert again.status == "ready", (left, again.diagnostics)
        assert pipeline.latest_ready().release_id == "v3", left
        assert room.project.strays() == [], left
        assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}, left
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (left, verdict.problems)
        told[status] += 1
        if told["ready"] == 2:
            break
    tried(sum(told.values()))
    assert where == "state" or told["blocked"] + told["StageFailed"] > 1, told


def test_what_only_reads_works_on_a_disk_without_room(make_room: Callable[..., Room]) -> None:
    """status, verify and audit, also when not a byte can be written."""
    room = make_room("pipeline", "tmpfs", "wal")
    pipeline = room.project.pipeline
    room.leave(0)
    found = overview(room.project.settings, 10)
    assert [release["releaseId"] for release in found["releases"]] == ["v2", "v1"]
    assert {each.status for each in verify_all(pipeline.catalogue)} == {"verified"}
    assert pipeline.audit.verify(pipeline.anchors()).intact
    with contextlib.suppress(StageFailed):
        recover(room.project.settings)
    room.empty()
    assert room.state() == "old"
