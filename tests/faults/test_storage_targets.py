"""Assets on mounts, on read-only or unmounted volumes, and limits of the process leave all old or all new."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from attrs import frozen

from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Event
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.journal import write_journal
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import call_at, crash_after_journal_writes
from tests.support.faults.listeners import on_steps
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import MakeProject, Project
from tests.support.writer import StartWriter

slow = pytest.mark.slow
# The swap writes the journal twice for the database and once for each file or folder.
every_journal_write = pytest.mark.parametrize(
    "journal_writes", [pytest.param(n, marks=[] if n == 2 else slow) for n in range(5)]
)
modes = pytest.mark.parametrize("mode", [pytest.param("wal", marks=slow), "delete"])


LATE_STEPS = ["safety snapshot", "swap"]


class Make(Protocol):
    """Make a project, its database in this journal mode."""

    def __call__(self, name: str, mode: str = "delete") -> Project: ...


Arrange = Callable[[Project, Mounts], None]


@pytest.fixture
def make(make_project: MakeProject) -> Make:
    """Return a maker of projects that read their configuration once."""

    def call(name: str, mode: str = "delete") -> Project:
        return make_project(name, mode, cache_settings=True)

    return call


def change(project: Project) -> None:
    """Change every asset in place, as a service on mounts can."""
    project.damage_rows()
    (project.identity / "identity.json").write_text('{"id": "other"}')
    (project.identity / "intruder").write_text("x")
    project.mcp.write_text('{"other": true}')
    project.extra.write_text("{}")


class Layout:
    """A project with assets on mounts, and its content in the old and the new state."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.new = project.content()
        project.capture()
        change(project)
        self.old = project.content()

    def state(self) -> str:
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else "mixed"

    def assert_intact(self, point: object) -> None:
        """Fail unless a rollback ends in all new, without leftovers and with an intact audit chain."""
        assert self.project.roll_back().status in ("restored", "noop"), point
        assert self.state() == "new", point
        assert self.project.leftovers() == [], point
        pipeline = self.project.pipeline
        assert pipeline.audit.verify(pipeline.anchors()).intact, point


def own_filesystems(project: Project, mounts: Mounts) -> None:
    """Put every asset on a filesystem of its own; the pipeline stays on the disk."""
    names = {"database": "app.db", "identity": "identity", "mcp": "mcp.json", "extra": "extra.json"}
    for key, name in names.items():
        folder = project.state / f"of-{key}"
        mounts.tmpfs(folder, "2m")
        if (project.state / name).exists():
            shutil.move(project.state / name, folder / name)
        setattr(project, key, folder / name)
    kinds = {"database": "sqlite", "identity": "directory", "mcp": "file", "extra": "file"}
    for key, kind in kinds.items():
        project.overrides[f"assets.{key}"] = {kind: f"state/of-{key}/{names[key]}", "required": key != "extra"}


def mount_points(project: Project, mounts: Mounts) -> None:
    """Make a file, the folder and the database mount points, as a container does with single volumes."""
    for path in (project.database, project.identity, project.mcp):
        source = project.folder / f"outside-{path.name}"
        shutil.move(path, source)
        path.mkdir() if source.is_dir() else path.touch()
        mounts.bind(source, path)


def lower_layer(project: Project, mounts: Mounts) -> None:
    """Make the whole state the lower layer of an overlay, as an image does."""
    layer = project.folder / "layer"
    shutil.move(project.state, layer)
    project.state.mkdir()
    mounts.overlay(layer, project.folder / "overlay", project.state)


ARRANGEMENTS = [own_filesystems, mount_points, lower_layer]
arrangements = pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=lambda function: function.__name__)


class TestMounts:
    """Assets on mounts of every kind."""

    pytestmark = MOUNTS

    @arrangements
    @modes
    def test_release_captured_from_mounts_has_the_same_digest(
        self, make_project: MakeProject, mounts: Mounts, arrange: Arrange, mode: str
    ) -> None:
        """Prepare is ready, and the digest of the state is the same as without mounts."""
        project = make_project("p", mode)
        before = prepare(project.settings, passed_preflight(), "before")
        arrange(project, mounts)
        now = prepare(project.settings, passed_preflight(), "now")
        assert (before.status, now.status) == ("ready", "ready"), (before.diagnostics, now.diagnostics)
        assert now.snapshot is not None and before.snapshot is not None
        assert now.snapshot.digest == before.snapshot.digest
        assert project.leftovers() == []

    @arrangements
    @modes
    def test_assets_on_mounts_are_restored_and_rolled_back(
        self, make: Make, mounts: Mounts, arrange: Arrange, mode: str
    ) -> None:
        """The first rollback restores, the second is a noop, and the safety snapshot brings the old state back."""
        project = make("p", mode)
        arrange(project, mounts)
        layout = Layout(project)
        outcome = project.roll_back()
        assert outcome.status == "restored", outcome.diagnostics
        assert layout.state() == "new"
        assert project.roll_back().status == "noop"
        assert project.roll_back(outcome.safety_snapshot_id).status == "restored"
        assert layout.state() == "old"
        layout.assert_intact("after the rollback to the safety snapshot")

    @arrangements
    @every_journal_write
    def test_crash_between_any_two_steps_on_mounts_is_recovered(
        self, make: Make, mounts: Mounts, arrange: Arrange, journal_writes: int
    ) -> None:
        """Also where names cannot be exchanged and the content is overwritten in place."""
        project = make("p", "delete")
        arrange(project, mounts)
        layout = Layout(project)
        with crash_after_journal_writes(journal_writes):
            project.roll_back()
        assert recover(project.settings).status == "finished"
        assert layout.state() == "new"
        layout.assert_intact(journal_writes)

    def test_database_in_a_lower_layer_is_restored_while_a_service_writes(
        self, project: Project, mounts: Mounts, start_writer: StartWriter
    ) -> None:
        """The first open for writing copies it up, so the service and the restore see the same file."""
        lower_layer(project, mounts)
        project.capture()
        writer = start_writer(project.database)
        outcome = project.roll_back()
        assert outcome.status == "restored", outcome.diagnostics
        writer.terminate()
        assert writer.wait(timeout=30) == 0
        accounts, ledger = project.rows()
        assert sum(balance for _, balance in accounts) == 5000
        assert [row[0] for row in ledger] == list(range(1, len(ledger) + 1)), (
            "rows from before the restore are in the ledger"
        )

    @pytest.mark.parametrize("name", ["database", "identity", "mcp", "extra"])
    def test_asset_on_a_read_only_mount_fails_all_until_it_is_writable(
        self, make: Make, mounts: Mounts, name: str
    ) -> None:
        """The other assets stay unchanged too; the message names the asset."""
        project = make("p", "delete")
        layout = Layout(project)
        path: Path = getattr(project, name)
        mounts.read_only(path)
        outcome = project.roll_back()
        assert outcome.status == "failed"
        assert path.name in outcome.diagnostics[0], outcome.diagnostics
        assert layout.state() == "old"
        assert project.leftovers() == []
        mounts.clear()
        layout.assert_intact(name)

    def test_read_only_pipeline_fails_commands_that_write_and_not_recover(self, make: Make, mounts: Mounts) -> None:
        """On a disk that the kernel made read-only rollback and prepare fail with a message; recover ends clean."""
        project = make("p", "wal")
        layout = Layout(project)
        mounts.read_only(project.pipeline.root)
        assert recover(project.settings).status == "clean"
        outcome = project.roll_back()
        assert outcome.status == "failed"
        assert "ead-only" in outcome.diagnostics[0] and str(project.pipeline.root) in outcome.diagnostics[0]
        with pytest.raises(StageFailed, match="ead-only"):
            prepare(project.settings, passed_preflight(), "v2")
        assert layout.state() == "old"
        mounts.clear()
        layout.assert_intact("writable again")

    def test_read_only_pipeline_blocks_recover_only_with_a_journal(self, make: Make, mounts: Mounts) -> None:
        """Leftovers of a capture do not concern the live state, so recover is clean; an interrupted swap does."""
        project = make("p", "wal")
        layout = Layout(project)
        leftover = project.pipeline.root / "snapshots" / ".v2_snapshot.partial"
        leftover.mkdir()
        mounts.read_only(project.pipeline.root)
        report = recover(project.settings)
        assert report.status == "clean" and "ead-only" in report.detail
        mounts.clear()
        with crash_after_journal_writes(3):
            project.roll_back()
        mounts.read_only(project.pipeline.root)
        with pytest.raises(StageFailed, match=r"inv release\.recover"):
            recover(project.settings)
        mounts.clear()
        assert recover(project.settings).status == "finished"
        layout.assert_intact("writable again")

    def test_read_only_state_blocks_a_release_only_in_wal_mode(self, make: Make, mounts: Mounts) -> None:
        """SQLite needs to write side files in WAL mode; the message says to make the folder writable."""
        for mode, expected in (("delete", "ready"), ("wal", "blocked")):
            project = make(mode, mode)
            mounts.read_only(project.state)
            manifest = prepare(project.settings, passed_preflight(), "v1")
            assert manifest.status == expected, manifest.diagnostics
            mounts.clear()
            assert expected == "ready" or "read-only" in manifest.diagnostics[0]
            assert project.leftovers() == []


@frozen
class Volume:
    """A layout with its ``state`` or its ``pipeline`` on a volume that a test unmounts and mounts."""

    layout: Layout
    which: str
    folder: Path
    source: Path

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def mount(self) -> None:
        """Mount the volume again, over an empty folder."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        subprocess.run(["mount", "--bind", str(self.source), str(self.folder)], check=True)

    def is_restored_below(self, step: str) -> bool:
        """Return whether a rollback that loses the volume at this step restores into the empty mount point."""
        return self.which == "state" and step in ("recover", "verify v1_snapshot", "safety snapshot")


class TestUnmountedVolume:
    """A volume that is unmounted during a command and mounted again afterwards."""

    pytestmark = MOUNTS

    @pytest.fixture
    def volume(self, make: Make, mounts: Mounts, request: pytest.FixtureRequest) -> Volume:
        """The volume with the folder of the parameter."""
        project = make("p", "delete")
        layout = Layout(project)
        folder = project.state if request.param == "state" else project.pipeline.root
        source = project.folder / "volume"
        shutil.move(folder, source)
        folder.mkdir()
        mounts.bind(source, folder)
        return Volume(layout, request.param, folder, source)

    volumes = pytest.mark.parametrize("volume", ["state", "pipeline"], indirect=True)

    @volumes
    @pytest.mark.parametrize(
        "step", [*(pytest.param(step, marks=slow) for step in ("recover", "verify v1_snapshot", "stage")), *LATE_STEPS]
    )
    def test_volume_unmounted_at_a_step_leaves_all_old_or_all_new(self, volume: Volume, step: str) -> None:
        """The rollback fails with a message; once the volume is mounted, recover ends in all old or all new."""
        layout = volume.layout
        project = layout.project
        outcome = rollback(
            project.settings, RollbackRequest(), on_steps(lambda name: volume.unmount() if name == step else None)
        )
        volume.mount()
        # Before the live state is read, a rollback finds no state and restores it: into the empty mount point.
        assert outcome.status == ("restored" if volume.is_restored_below(step) else "failed"), outcome
        recover(project.settings)
        assert layout.state() == "old" or (outcome.status == "failed" and layout.state() == "new"), outcome
        layout.assert_intact(step)

    @volumes
    @every_journal_write
    def test_volume_unmounted_between_two_steps_of_the_swap_is_recovered(
        self, volume: Volume, journal_writes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After any step recover ends in all old or all new."""
        layout = volume.layout
        project = layout.project
        with monkeypatch.context() as patch:
            patch.setattr(swap, "write_journal", call_at(journal_writes + 1, write_journal, volume.unmount))
            outcome = project.roll_back()
        volume.mount()
        message = " ".join(outcome.diagnostics)
        if outcome.status == "failed" and layout.state() == "mixed":
            assert "may be mixed" in message, outcome
        recover(project.settings)
        assert layout.state() in ("old", "new"), outcome
        layout.assert_intact(journal_writes)

    @volumes
    def test_volume_unmounted_before_the_command_changes_nothing(self, volume: Volume) -> None:
        """There is no snapshot to restore or no state to prepare; the state is unchanged once the volume is mounted."""
        layout = volume.layout
        project = layout.project
        volume.unmount()
        if volume.which == "state":
            manifest = prepare(project.settings, passed_preflight(), "v2")
            assert manifest.status == "blocked" and "does not exist" in manifest.diagnostics[0]
        else:
            outcome = project.roll_back()
            assert outcome.status == "failed" and "no release snapshot" in outcome.diagnostics[0]
        volume.mount()
        assert recover(project.settings).status == "clean"
        assert layout.state() == "old"
        layout.assert_intact("mounted again")

    @volumes
    def test_volume_unmounted_during_a_capture_publishes_no_partial_release(self, volume: Volume) -> None:
        """The release is blocked, or complete when the capture ended before."""
        layout = volume.layout
        project = layout.project
        is_unmounted = False

        def unmount(event: Event) -> None:
            nonlocal is_unmounted
            if isinstance(event, BytesMoved) and event.done and not is_unmounted:
                is_unmounted = True
                volume.unmount()

        try:
            status: str = prepare(project.settings, passed_preflight(), "v2", unmount).status
        except StageFailed:
            status = "failed"
        volume.mount()
        recover(project.settings)
        snapshots = [snapshot.snapshot_id for snapshot in project.pipeline.catalogue.published()[0]]
        assert layout.state() == "old"
        if status == "ready":
            outcome = project.roll_back()
            assert outcome.status == "restored", outcome.diagnostics
            assert layout.state() == "old"
        else:
            assert snapshots == ["v1_snapshot"]
            layout.assert_intact(status)


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Lower a resource limit of this process while the block runs."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


class TestLimits:
    """Limits of the process: the size of a file, as a quota has, and the number of open files."""

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_limit_on_the_size_of_files_leaves_all_old_or_all_new(
        self, make: Make, report_points: Callable[[int], None], mode: str
    ) -> None:
        """EFBIG at different writes of prepare, rollback and recover."""
        sizes = [0, 100, 600, 1024, 2000, 4096, 5000, 8192, 9000, 12288, 13000, 16384, 33000, 1 << 20]
        report_points(3 * len(sizes))
        assert_whole_under_limits(lambda name: make(name, mode), resource.RLIMIT_FSIZE, sizes)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_limit_on_open_files_leaves_all_old_or_all_new(
        self, make: Make, report_points: Callable[[int], None], mode: str
    ) -> None:
        """EMFILE at different calls; a sound database is never treated as damaged."""
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        limits = [lowest + more for more in (*range(13), 16, 20, 40)]
        report_points(3 * len(limits))
        assert_whole_under_limits(lambda name: make(name, mode), resource.RLIMIT_NOFILE, limits)


def assert_whole_under_limits(make: Callable[[str], Project], kind: int, values: list[int]) -> None:
    """Roll back, recover and prepare under each limit, and then without it."""
    ended: Counter[str] = Counter()
    for value in values:
        project = make(f"p{value}")
        layout = Layout(project)
        inode = project.database.stat().st_ino
        with limited(kind, value):
            outcome = project.roll_back()
        is_new = outcome.status == "restored" or "is live" in " ".join(outcome.diagnostics)
        assert layout.state() == ("new" if is_new else "old"), outcome
        assert project.database.stat().st_ino == inode, outcome
        ended[f"rollback {outcome.status}"] += 1
        recover(project.settings)
        layout.assert_intact(value)
        change(project)
        with crash_after_journal_writes(2):
            project.roll_back(force=True)
        with limited(kind, value):
            ended[f"recover {recover_status(project)}"] += 1
        recover(project.settings)
        layout.assert_intact(value)
        with limited(kind, value):
            status = prepare_status(project)
        ended[f"prepare {status}"] += 1
        recover(project.settings)
        assert layout.state() == "new", value
        assert project.leftovers() == [], value
        assert (project.pipeline.latest_ready() is not None) == (status == "ready"), (value, status)
    expected = ("rollback failed", "rollback restored", "recover finished", "prepare ready", "recover StageFailed")
    assert all(ended[word] for word in expected), ended
    assert ended["prepare StageFailed"] + ended["prepare blocked"], ended


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
