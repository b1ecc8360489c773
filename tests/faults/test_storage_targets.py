"""Targets that are mounts, that are read-only, that vanish, and limits of the process: all old, or all new."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Event
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.faults.telling import at_steps
from tests.support.project import Project

needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]

slow = pytest.mark.slow
# The notes that the journal of a rollback gets: two for the database, one for each file or folder.
every_note = pytest.mark.parametrize("notes", [pytest.param(n, marks=[] if n == 2 else slow) for n in range(5)])
modes = pytest.mark.parametrize("mode", [pytest.param("wal", marks=slow), "delete"])


LATE_STEPS = ["safety snapshot", "swap"]


class PowerCut(BaseException):
    """Ends a rollback as a crash does."""


@pytest.fixture
def make(make_project: Callable[..., Any], steady: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a maker of projects that read their configuration once."""
    return lambda name, mode="delete": steady(make_project(name, mode))


def roll(project: Project, **flags: Any) -> Any:
    return rollback(project.settings, RollbackRequest(**flags))


@contextlib.contextmanager
def cut_after(notes: int) -> Iterator[None]:
    """End the rollback in the block once its journal was rewritten so many times."""
    note = swap.Swap._note
    count = 0

    def noted(self: Any, step: Any) -> Any:
        nonlocal count
        count += 1
        if count > notes:
            raise PowerCut
        return note(self, step)

    swap.Swap._note = noted  # type: ignore[method-assign]
    try:
        with pytest.raises(PowerCut):
            yield
    finally:
        swap.Swap._note = note  # type: ignore[method-assign]


def change(project: Project) -> None:
    """Change every asset where it is, as a service on mounts can."""
    database = sqlite3.connect(project.database, timeout=30)
    database.execute("UPDATE accounts SET balance = balance + 1")
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (0, 0, 999999)")
    database.commit()
    database.close()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    project.mcp.write_text('{"other": true}')
    project.extra.write_text("{}")


class Layout:
    """A project whose assets a test puts on mounts, and what it holds in either state."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.new = project.content()
        project.capture()
        change(project)
        self.old = project.content()

    def state(self) -> str:
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else "mixed"

    def hold(self, point: object) -> None:
        """All new after another rollback, nothing left over, one chain."""
        assert roll(self.project).status in ("restored", "noop"), point
        assert self.state() == "new", point
        assert self.project.strays() == [], point
        pipeline = self.project.pipeline
        assert pipeline.audit.verify(pipeline.anchors()).intact, point


def own_filesystems(project: Project, mounts: Any) -> None:
    """Put every asset on a filesystem of its own, the pipeline on the disk."""
    places = {"database": "app.db", "identity": "identity", "mcp": "mcp.json", "extra": "extra.json"}
    for key, name in places.items():
        folder = project.state / f"of-{key}"
        mounts.tmpfs(folder, "2m")
        if (project.state / name).exists():
            shutil.move(project.state / name, folder / name)
        setattr(project, key, folder / name)
    kinds = {"database": "sqlite", "identity": "directory", "mcp": "file", "extra": "file"}
    for key, kind in kinds.items():
        project.overrides[f"assets.{key}"] = {kind: f"state/of-{key}/{places[key]}", "required": key != "extra"}


def mount_points(project: Project, mounts: Any) -> None:
    """Make the file, the folder and the database mount points, as a container does with single volumes."""
    for path in (project.database, project.identity, project.mcp):
        source = project.folder / f"outside-{path.name}"
        shutil.move(path, source)
        path.mkdir() if source.is_dir() else path.touch()
        mounts.bind(source, path)


def lower_layer(project: Project, mounts: Any) -> None:
    """Make all of it the lower layer of an overlay, as an image does."""
    layer = project.folder / "layer"
    shutil.move(project.state, layer)
    project.state.mkdir()
    mounts.overlay(layer, project.folder / "overlay", project.state)


ARRANGEMENTS = [own_filesystems, mount_points, lower_layer]
arrangements = pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=lambda function: function.__name__)


class TestMounts:
    """Assets on mounts of every kind."""

    pytestmark = needs_root

    @arrangements
    @modes
    def test_a_release_is_captured_from_mounts_and_equals_one_without(
        self, make_project: Callable[..., Any], mounts: Any, arrange: Callable[..., None], mode: str
    ) -> None:
        """Prepare is ready, and the digest of the state is the same as before it lay on mounts."""
        project = make_project("p", mode)
        before = prepare(project.settings, passed_preflight(), "before")
        arrange(project, mounts)
        now = prepare(project.settings, passed_preflight(), "now")
        assert (before.status, now.status) == ("ready", "ready"), (before.diagnostics, now.diagnostics)
        assert now.snapshot.digest == before.snapshot.digest
        assert project.strays() == []

    @arrangements
    @modes
    def test_mounts_are_restored_and_go_back(
        self, make: Callable[..., Any], mounts: Any, arrange: Callable[..., None], mode: str
    ) -> None:
        """Restored, nothing to do the second time, and the safety snapshot brings back what was."""
        project = make("p", mode)
        arrange(project, mounts)
        layout = Layout(project)
        outcome = roll(project)
        assert outcome.status == "restored", outcome.diagnostics
        assert layout.state() == "new"
        assert roll(project).status == "noop"
        assert roll(project, snapshot_id=outcome.safety_snapshot_id).status == "restored"
        assert layout.state() == "old"
        layout.hold("after going back")

    @arrangements
    @every_note
    def test_a_crash_between_any_two_steps_on_mounts_is_recovered(
        self, make: Callable[..., Any], mounts: Any, arrange: Callable[..., None], notes: int
    ) -> None:
        """Also where names cannot be exchanged and the content is written in place."""
        project = make("p", "delete")
        arrange(project, mounts)
        layout = Layout(project)
        with cut_after(notes):
            roll(project)
        assert recover(project.settings).status == "finished"
        assert layout.state() == "new"
        layout.hold(notes)

    def test_a_database_in_a_lower_layer_is_restored_under_a_service_at_work(
        self, project: Project, mounts: Any, start_writer: Callable[..., Any]
    ) -> None:
        """Opened for writing, it is copied up once, so the service and the restore see one file."""
        lower_layer(project, mounts)
        project.capture()
        writer = start_writer(project.database)
        outcome = roll(project)
        assert outcome.status == "restored", outcome.diagnostics
        writer.terminate()
        assert writer.wait(timeout=30) == 0
        accounts, ledger = project.rows()
        assert sum(balance for _, balance in accounts) == 5000
        assert [row[0] for row in ledger] == list(range(1, len(ledger) + 1)), "rows of before the restore came through"

    @pytest.mark.parametrize("name", ["database", "identity", "mcp", "extra"])
    def test_one_asset_on_a_read_only_mount_fails_all_and_works_when_it_is_writable(
        self, make: Callable[..., Any], mounts: Any, name: str
    ) -> None:
        """The others are as before, too; the sentence names the asset."""
        project = make("p", "delete")
        layout = Layout(project)
        path = getattr(project, name)
        mounts.read_only(path)
        outcome = roll(project)
        assert outcome.status == "failed"
        assert path.name in outcome.diagnostics[0], outcome.diagnostics
        assert layout.state() == "old"
        assert project.strays() == []
        mounts.clear()
        layout.hold(name)

    def test_a_read_only_pipeline_is_failed_for_what_writes_and_read_by_what_reads(
        self, make: Callable[..., Any], mounts: Any
    ) -> None:
        """A disk that the kernel has made read-only: sentences, and the start gate stays open."""
        project = make("p", "wal")
        layout = Layout(project)
        mounts.read_only(project.pipeline.root)
        assert recover(project.settings).status == "clean"
        outcome = roll(project)
        assert outcome.status == "failed"
        assert "ead-only" in outcome.diagnostics[0] and str(project.pipeline.root) in outcome.diagnostics[0]
        with pytest.raises(StageFailed, match="ead-only"):
            prepare(project.settings, passed_preflight(), "v2")
        assert layout.state() == "old"
        mounts.clear()
        layout.hold("writable again")

    def test_a_read_only_pipeline_with_leftovers_does_not_keep_the_service_down(
        self, make: Callable[..., Any], mounts: Any
    ) -> None:
        """What an interrupted capture left concerns no live state; what was swapped halfway does."""
        project = make("p", "wal")
        layout = Layout(project)
        leftover = project.pipeline.root / "snapshots" / ".v2_snapshot.partial"
        leftover.mkdir()
        mounts.read_only(project.pipeline.root)
        report = recover(project.settings)
        assert report.status == "clean" and "ead-only" in report.detail
        mounts.clear()
        with cut_after(3):
            roll(project)
        mounts.read_only(project.pipeline.root)
        with pytest.raises(StageFailed, match=r"inv release\.recover"):
            recover(project.settings)
        mounts.clear()
        assert recover(project.settings).status == "finished"
        layout.hold("writable again")

    def test_a_read_only_state_blocks_a_release_only_where_the_database_needs_to_write(
        self, make: Callable[..., Any], mounts: Any
    ) -> None:
        """With a rollback journal it is read; in WAL mode it wants its side files, and the sentence says so."""
        for mode, expected in (("delete", "ready"), ("wal", "blocked")):
            project = make(mode, mode)
            mounts.read_only(project.state)
            manifest = prepare(project.settings, passed_preflight(), "v1")
            assert manifest.status == expected, manifest.diagnostics
            mounts.clear()
            assert expected == "ready" or "read-only" in manifest.diagnostics[0]
            assert project.strays() == []


class TestVanishing:
    """A volume that goes away, and comes back."""

    pytestmark = needs_root

    @pytest.fixture
    def volume(self, make: Callable[..., Any], mounts: Any, request: pytest.FixtureRequest) -> Any:
        """The layout, and how its volume goes and comes back; the parameter says which folder is on it."""
        project = make("p", "delete")
        layout = Layout(project)
        place = project.state if request.param == "state" else project.pipeline.root
        volume = project.folder / "volume"
        shutil.move(place, volume)
        place.mkdir()
        mounts.bind(volume, place)

        def go() -> None:
            subprocess.run(["umount", "-l", str(place)], check=True)

        def come() -> None:
            for path in place.iterdir():  # what was written while it was away
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            subprocess.run(["mount", "--bind", str(volume), str(place)], check=True)

        return layout, go, come, request.param

    volumes = pytest.mark.parametrize("volume", ["state", "pipeline"], indirect=True)

    @volumes
    @pytest.mark.parametrize(
        "step", [*(pytest.param(step, marks=slow) for step in ("recover", "verify v1_snapshot", "stage")), *LATE_STEPS]
    )
    def test_a_volume_that_vanishes_at_a_step_leaves_all_old_or_all_new(self, volume: Any, step: str) -> None:
        """Failed in a sentence; once it is back, recover ends all old or all new."""
        layout, go, come, _ = volume
        project = layout.project
        outcome = rollback(project.settings, RollbackRequest(), at_steps(lambda told: go() if told == step else None))
        come()
        # Without any state left, before it was looked at, a rollback restores all of it: into the empty mount point.
        assert outcome.status == ("restored" if is_restored_beneath(volume, step) else "failed"), outcome
        recover(project.settings)
        assert layout.state() == "old" or (outcome.status == "failed" and layout.state() == "new"), outcome
        layout.hold(step)

    @volumes
    @every_note
    def test_a_volume_that_vanishes_between_two_steps_of_the_swap_is_put_right(
        self, volume: Any, notes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever was reached: recover brings all of it to one side."""
        layout, go, come, _ = volume
        project = layout.project
        note, count = swap.Swap._note, 0

        def noted(self: Any, step: Any) -> Any:
            nonlocal count
            count += 1
            if count == notes + 1:
                go()
            return note(self, step)

        with monkeypatch.context() as patch:
            patch.setattr(swap.Swap, "_note", noted)
            outcome = roll(project)
        come()
        told = " ".join(outcome.diagnostics)
        if outcome.status == "failed" and layout.state() == "mixed":
            assert "may be mixed" in told, outcome
        recover(project.settings)
        assert layout.state() in ("old", "new"), outcome
        layout.hold(notes)

    @volumes
    def test_a_volume_that_is_away_before_the_command_changes_nothing(self, volume: Any) -> None:
        """Nothing to go back to, or nothing to prepare; the state is as it was when it is back."""
        layout, go, come, which = volume
        project = layout.project
        go()
        if which == "state":
            manifest = prepare(project.settings, passed_preflight(), "v2")
            assert manifest.status == "blocked" and "does not exist" in manifest.diagnostics[0]
        else:
            outcome = roll(project)
            assert outcome.status == "failed" and "no release snapshot" in outcome.diagnostics[0]
        come()
        assert recover(project.settings).status == "clean"
        assert layout.state() == "old"
        layout.hold("back")

    @volumes
    def test_a_volume_that_vanishes_while_a_release_is_captured_makes_none(self, volume: Any) -> None:
        """Blocked, or captured whole before it went."""
        layout, go, come, _ = volume
        project = layout.project
        is_gone = False

        def vanish(event: Event) -> None:
            nonlocal is_gone
            if isinstance(event, BytesMoved) and event.done and not is_gone:
                is_gone = True
                go()

        told = ""
        try:
            manifest = prepare(project.settings, passed_preflight(), "v2", vanish)
            told = manifest.status
        except StageFailed:
            told = "failed"
        come()
        recover(project.settings)
        snapshots = [snapshot.snapshot_id for snapshot in project.pipeline.catalogue.published()[0]]
        assert layout.state() == "old"
        if told == "ready":
            outcome = roll(project)
            assert outcome.status == "restored", outcome.diagnostics
            assert layout.state() == "old"
        else:
            assert snapshots == ["v1_snapshot"]
            layout.hold(told)


def is_restored_beneath(volume: Any, step: str) -> bool:
    return volume[3] == "state" and step in ("recover", "verify v1_snapshot", "safety snapshot")


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Give this process less of something while the block runs."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


class TestLimits:
    """Limits of the process: the size of a file, as a quota is, and the number of open files."""

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_a_limit_on_the_size_of_files_ends_in_all_old_or_all_new(
        self, make: Callable[..., Any], tried: Callable[[int], None], mode: str
    ) -> None:
        """EFBIG at another write each time: prepare, rollback and recover."""
        sizes = [0, 100, 600, 1024, 2000, 4096, 5000, 8192, 9000, 12288, 13000, 16384, 33000, 1 << 20]
        tried(3 * len(sizes))
        hold_under_limits(lambda name: make(name, mode), resource.RLIMIT_FSIZE, sizes)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_a_limit_on_open_files_ends_in_all_old_or_all_new(
        self, make: Callable[..., Any], tried: Callable[[int], None], mode: str
    ) -> None:
        """EMFILE at another call each time; a sound database is never taken for a damaged one."""
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        limits = [lowest + more for more in (*range(13), 16, 20, 40)]
        tried(3 * len(limits))
        hold_under_limits(lambda name: make(name, mode), resource.RLIMIT_NOFILE, limits)


def hold_under_limits(make: Callable[[str], Any], kind: int, values: list[int]) -> None:
    """Roll back, recover and prepare under each limit, and then without."""
    told: Counter[str] = Counter()
    for value in values:
        project = make(f"p{value}")
        layout = Layout(project)
        inode = project.database.stat().st_ino
        with limited(kind, value):
            outcome = roll(project)
        is_new = outcome.status == "restored" or "is live" in " ".join(outcome.diagnostics)
        assert layout.state() == ("new" if is_new else "old"), outcome
        assert project.database.stat().st_ino == inode, outcome
        told[f"rollback {outcome.status}"] += 1
        recover(project.settings)
        layout.hold(value)
        change(project)
        with cut_after(2):
            roll(project, force=True)
        with limited(kind, value):
            told[f"recover {recover_status(project)}"] += 1
        recover(project.settings)
        layout.hold(value)
        with limited(kind, value):
            status = prepare_status(project)
        told[f"prepare {status}"] += 1
        recover(project.settings)
        assert layout.state() == "new", value
        assert project.strays() == [], value
        assert (project.pipeline.latest_ready() is not None) == (status == "ready"), (value, status)
    well = ("rollback failed", "rollback restored", "recover finished", "prepare ready", "recover StageFailed")
    assert all(told[word] for word in well), told
    assert told["prepare StageFailed"] + told["prepare blocked"], told


def recover_status(project: Project) -> str:
    try:
        return recover(project.settings).status
    except StageFailed:
        return "StageFailed"


def prepare_status(project: Project) -> str:
    try:
        return prepare(project.settings, passed_preflight(), "v2").status
    except StageFailed:
        return "StageFailed"
