"""One system call fails, with one error, at any point of a stage: ``failed`` in a sentence, and the state is whole.

Some sweeps try a seeded share of the calls; with EVERY_CALL in the environment all of them try every call.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.failing_calls import CHANGING, OPENING, READING, Ended, FailingCalls, why_not
from tests.support.faults.scene import OverlayScene, Scene, damage_header

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"NOT TESTED: {why_not()}")

slow = [pytest.mark.slow, pytest.mark.timeout(900)]
as_root = [
    *slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]
CHANGES = CHANGING + OPENING
SENTENCE = re.compile(r"[.?]$|: inv [a-z]+\.[a-z]+[^.]*$")  # it ends as one, or with what to type
SEED = 20261


@pytest.fixture
def make_scene(
    memory: Path, project_at: Callable[..., Any], steady: Callable[[Any], Any]
) -> Iterator[Callable[..., Scene]]:
    """Return a maker of scenes on a filesystem in memory."""
    made: list[Scene] = []

    def make(kind: str, **options: Any) -> Scene:
        folder = memory / "project"
        folder.mkdir()
        project = steady(project_at(folder, "wal" if kind == "wal" else "delete"))
        if options.get("releases"):
            project.overrides["assets.mcp"] = {"file": "state/mcp.json", "required": False}
        scene_of = OverlayScene if kind == "overlay" else Scene
        made.append(scene_of(project, None, damage=damage_header if kind == "damaged" else None, **options))
        return made[0]

    yield make
    for scene in made:
        scene.close()


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Callable[..., FailingCalls]]:
    """Return a starter of processes that run stages with a failing call."""
    started: list[FailingCalls] = []

    def start(error: str, names: Sequence[str], job: dict[str, Any], **options: Any) -> FailingCalls:
        started.append(FailingCalls(error, names, job, tmp_path / f"trace-{len(started)}", **options))
        return started[-1]

    yield start
    for process in started:
        process.close()


def points(scene: Scene, calls: FailingCalls, job: dict[str, Any], share: float) -> list[tuple[str, int]]:
    """Run the job undisturbed and return every call that it makes, or a seeded share of them in no order.

    Three times, and what it makes in each: a file that was written an instant ago is read twice.
    """
    counted: list[Counter[str]] = []
    for _ in range(3):
        scene.fresh()
        counted.append(calls.run(job).calls)
    return share_of(counted[0] & counted[1] & counted[2], share)


def share_of(counted: Counter[str], share: float) -> list[tuple[str, int]]:
    every = [(name, number) for name, count in sorted(counted.items()) for number in range(1, count + 1)]
    assert every
    if share == 1 or "EVERY_CALL" in os.environ:
        return every
    return random.Random(SEED).sample(every, max(1, int(len(every) * share)))


def hold_sentence(ended: Ended, point: object) -> None:
    """A sentence at least, and no traceback."""
    assert not ended.traceback, (point, ended)
    assert ended.sentences and (SENTENCE.search(ended.sentences[0]) or ended.told == "blocked"), (point, ended)


def hold_rollback(scene: Scene, ended: Ended, inode: int, point: object) -> str:
    """Hold what is promised of the rollback itself; returns the state that it left."""
    assert not ended.traceback, (point, ended)
    left = scene.state()
    if ended.told in ("restored", "noop"):
        assert left == "new", (point, left, ended)
    else:
        assert ended.told == "failed", (point, ended)
        hold_sentence(ended, point)
        told = " ".join(ended.sentences)
        if "The undo also failed" in told:  # each thread counts its calls, so the error can come once to two of them
            assert scene.project.pipeline.journal_path.exists() and "inv release.recover" in told, (point, ended)
            return left
        assert left in ("old", "new"), (point, left, ended)
        assert left == "old" or "is live" in told, (point, ended)
        assert left == "new" or "is live" not in told, (point, ended)
        has_journal = scene.project.pipeline.journal_path.exists()
        assert not has_journal or "is live" in told or "inv release.recover" in told, (point, ended)
    if inode:
        assert scene.project.database.stat().st_ino == inode, (point, "a sound database was replaced whole", ended)
    return left


def hold_the_way_on(scene: Scene, left: str, point: object, number: int) -> None:
    """The next command works and changes what it says: a recover, or at every other point another rollback."""
    settings = scene.project.settings
    if number % 2:
        had_journal = scene.project.pipeline.journal_path.exists()
        recover(settings)
        now = scene.state()
        assert now == left or (had_journal and now in ("old", "new")), (point, left, now)
    assert rollback(settings, RollbackRequest()).status in ("restored", "noop"), point
    assert scene.state() == "new", (point, scene.state())
    verdict = scene.project.pipeline.audit.verify(scene.project.pipeline.anchors())
    assert verdict.intact, (point, verdict.problems)
    assert scene.project.strays() == [], point
    if number % 10 == 0:
        scene.hold_pipeline(point)


def rollbacks(*, kind: str, error: str, names: Sequence[str], share: float) -> Any:
    """Describe one sweep over a rollback."""
    marks = as_root if kind == "overlay" else slow
    parts = {"changing": CHANGING, "opening": OPENING, "changing or opening": CHANGES, "reading": READING}
    part = next((word for word, group in parts.items() if group is names), ",".join(names))
    return pytest.param(kind, error, names, share, marks=marks, id=f"{kind}, {error}, {part}")


@pytest.mark.parametrize(
    ("kind", "error", "names", "share"),
    [
        rollbacks(kind="wal", error="EIO", names=CHANGING, share=0.12),
        rollbacks(kind="wal", error="EIO", names=OPENING, share=0.08),
        rollbacks(kind="wal", error="EIO", names=READING, share=0.04),
        rollbacks(kind="wal", error="ENOSPC", names=CHANGES, share=0.04),
        rollbacks(kind="wal", error="EROFS", names=CHANGES, share=0.04),
        rollbacks(kind="wal", error="EMFILE", names=OPENING, share=0.04),
        rollbacks(kind="delete", error="EIO", names=CHANGES, share=0.06),
        rollbacks(kind="delete", error="EDQUOT", names=["write", "pwrite64", "mkdir", "openat"], share=0.04),
        rollbacks(kind="damaged", error="EIO", names=CHANGES, share=0.06),
        rollbacks(kind="overlay", error="EIO", names=CHANGING, share=0.06),
        rollbacks(kind="overlay", error="EIO", names=OPENING, share=0.08),
        rollbacks(kind="overlay", error="EIO", names=READING, share=0.04),
        rollbacks(kind="delete", error="EIO", names=READING, share=0.04),
    ],
)
def test_a_rollback_whose_call_fails_is_failed_with_all_old_or_restored(
    make_scene: Callable[..., Scene],
    failing: Callable[..., FailingCalls],
    tried: Callable[[int], None],
    kind: str,
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """Never a mix, never a sound database replaced under its service, a sentence that names the place, and a way on."""
    scene = make_scene(kind)
    scene.fresh()
    job = scene.job("rollback")
    calls = failing(error, names, job)
    chosen = points(scene, calls, job, share)
    failed = done = 0
    for index, (name, number) in enumerate(chosen):
        scene.fresh()
        inode = scene.project.database.stat().st_ino if kind in ("wal", "delete") else 0
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not came(ended, name, point):
            continue
        left = hold_rollback(scene, ended, inode, point)
        hold_the_way_on(scene, left, point, index)
        failed += ended.told == "failed"
        done += 1
    tried(done)
    assert done > len(chosen) * 0.9
    assert failed > len(chosen) / 10


@pytest.mark.slow
def test_a_rollback_with_a_failing_call_of_each_kind_is_failed_with_all_old_or_restored(
    make_scene: Callable[..., Scene], failing: Callable[..., FailingCalls], tried: Callable[[int], None]
) -> None:
    """A few of the same, so that the fast selection has it too: reads and writes of databases, renames, flushes."""
    scene = make_scene("wal")
    scene.fresh()
    job = scene.job("rollback")
    calls = failing("EIO", ["pread64", "pwrite64", "renameat2", "rename", "fdatasync"], job)
    counted: Counter[str] = Counter(name for name, _ in points(scene, calls, job, 1))
    chosen = [(name, count - count // 3) for name, count in sorted(counted.items())]
    for index, (name, number) in enumerate([*chosen, ("pread64", 5)]):
        scene.fresh()
        inode = scene.project.database.stat().st_ino
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        left = hold_rollback(scene, ended, inode, point)
        hold_the_way_on(scene, left, point, index)
    tried(len(chosen) + 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("ENOSPC", "write"),
        ("ENOSPC", "pwrite64"),
        ("EIO", "fsync"),
        ("EROFS", "rename"),
        ("EROFS", "unlink"),
        ("EMFILE", "openat"),
    ],
)
def test_a_rollback_on_a_disk_that_fails_for_good_says_what_to_run_and_is_put_right_on_a_sound_one(
    make_scene: Callable[..., Scene],
    failing: Callable[..., FailingCalls],
    tried: Callable[[int], None],
    error: str,
    name: str,
) -> None:
    """From one moment on every such call fails, those of undoing too; once they work again, one command mends it."""
    scene = make_scene("wal")
    scene.fresh()
    job = scene.job("rollback")
    calls = failing(error, [name], job, is_lasting=True)
    chosen = points(scene, calls, job, 1)
    states: Counter[str] = Counter()
    for _, number in chosen[:: max(1, len(chosen) // 30)]:
        scene.fresh()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        left = scene.state()
        assert not ended.traceback, (point, ended)
        if ended.told == "failed":
            hold_sentence(ended, point)
            told = " ".join(ended.sentences)
            has_journal = scene.project.pipeline.journal_path.exists()
            assert left in ("old", "new") or (has_journal and "may be mixed" in told), (point, left, ended)
            assert not has_journal or "is live" in told or "inv release.recover" in told, (point, left, ended)
        else:
            assert left == "new", (point, left, ended)
        states[left if left in ("old", "new") else "mixed"] += 1
        scene.check_rollback(point, directly=number % 2 == 0)
    tried(sum(states.values()))
    assert states["old"] and (states["new"] or name == "pwrite64"), states


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_error_names_the_file_that_it_happened_to(
    make_scene: Callable[..., Scene], failing: Callable[..., FailingCalls], tried: Callable[[int], None]
) -> None:
    """Also where the call is about a descriptor: "Input/output error" alone sends nobody to the right disk."""
    scene = make_scene("delete")
    scene.fresh()
    job = scene.job("rollback")
    calls = failing("EIO", ["write", "fsync", "fchmod", "flock", "read", "pread64", "getdents64", "readlinkat"], job)
    folder = str(scene.project.folder)
    chosen = points(scene, calls, job, 0.4)
    nameless = []
    for name, number in chosen:
        scene.fresh()
        ended = calls.run(job, name, number)
        # A snapshot that cannot be read is called by its id.
        if ended.told == "failed" and not any(word in ended.sentences[0] for word in (folder, "Snapshot", "snapshot")):
            nameless.append((name, number, ended.failed_call, ended.sentences))
    tried(len(chosen))
    assert not nameless, nameless


def came(ended: Ended, name: str, point: object) -> bool:
    """Say whether the call came at all; only how often something is read depends on how busy the machine is."""
    assert ended.failed_call or name in READING, (point, "did not come")
    return bool(ended.failed_call)


def hold_prepare(scene: Scene, ended: Ended, point: object) -> None:
    """Hold what is promised of the prepare itself: a whole release or none, and the state untouched either way."""
    pipeline = scene.project.pipeline
    assert scene.state() == "old", (point, "the live state was touched", ended)
    newest = pipeline.latest_ready()
    assert newest is not None and newest.snapshot is not None, (point, ended)
    snapshots = [snapshot.snapshot_id for snapshot in pipeline.catalogue.published()[0]]
    assert newest.snapshot.snapshot_id in snapshots, (point, "the newest release names a snapshot that is gone", ended)
    if ended.told == "ready":
        assert newest.release_id == "failing", (point, ended)
        return
    assert ended.told in ("blocked", "StageFailed"), (point, ended)
    hold_sentence(ended, point)
    assert newest.release_id == "v2", (point, ended)
    ready = [file.release_id for file in pipeline.read_manifests() if file.manifest and file.manifest.status == "ready"]
    assert ready == ["v1", "v2"], (point, ready, ended)
    assert [name for name in snapshots if name.startswith("failing")] == [], (point, ended)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("error", "names", "share"),
    [
        pytest.param("EIO", CHANGES, 0.1, id="EIO, changing or opening"),
        pytest.param("EIO", READING, 0.1, id="EIO, reading"),
        pytest.param("ENOSPC", CHANGES, 0.04, id="ENOSPC, changing or opening"),
        pytest.param("EROFS", CHANGES, 0.04, id="EROFS, changing or opening"),
    ],
)
def test_a_prepare_whose_call_fails_leaves_a_whole_release_or_none(
    make_scene: Callable[..., Scene],
    failing: Callable[..., FailingCalls],
    tried: Callable[[int], None],
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """Blocked in a sentence or ready; latest.json never names what is gone, and the next prepare is ready."""
    scene = make_scene("wal", releases=("v1", "v2"))
    scene.fresh()
    job = scene.job("prepare", release_id="failing")
    calls = failing(error, names, job)
    chosen = points(scene, calls, job, share)
    told: Counter[str] = Counter()
    for name, number in chosen:
        scene.fresh()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not came(ended, name, point):
            continue
        hold_prepare(scene, ended, point)
        scene.check_prepare(point)
        told[ended.told] += 1
    tried(told.total())
    assert told.total() > len(chosen) * 0.9
    assert told["blocked"] > len(chosen) / 10, told


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "notes", "error", "names", "share"),
    [
        pytest.param("wal", 4, "EIO", CHANGES, 0.25, id="wal, EIO, changing or opening"),
        pytest.param("wal", 4, "EIO", READING, 0.15, id="wal, EIO, reading"),
        pytest.param("wal", 1, "ENOSPC", CHANGES, 0.15, id="wal, ENOSPC, changing or opening"),
        pytest.param("delete", 2, "EROFS", CHANGES, 0.15, id="delete, EROFS, changing or opening"),
        pytest.param("damaged", 1, "EIO", CHANGES, 0.2, id="damaged, EIO, changing or opening"),
    ],
)
def test_a_recovery_whose_call_fails_is_finished_by_the_next_and_never_called_done(
    make_scene: Callable[..., Scene],
    failing: Callable[..., FailingCalls],
    tried: Callable[[int], None],
    kind: str,
    notes: int,
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """The start gate of the service: it says that all is well only when it is, or fails in a sentence."""
    scene = make_scene(kind)
    scene.fresh()
    cut, job = scene.job("cut rollback", notes=notes), scene.job("recover")
    calls = failing(error, names, scene.job("rollback"))

    def fresh() -> None:
        scene.lay_out()
        calls.run(cut)
        assert scene.project.pipeline.journal_path.exists()

    fresh()
    chosen = share_of(calls.run(job).calls, share)
    told: Counter[str] = Counter()
    for name, number in chosen:
        fresh()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not came(ended, name, point):
            continue
        hold_sentence(ended, point)
        left = scene.state()
        if ended.told == "StageFailed":
            assert left in ("old", "new") or scene.project.pipeline.journal_path.exists(), (point, left, ended)
        else:
            assert ended.told in ("finished", "undone"), (point, ended)
            assert left == {"finished": "new", "undone": "old"}[ended.told], (point, left, ended)
        scene.check_rollback(point)
        told[ended.told] += 1
    tried(told.total())
    assert told.total() > len(chosen) * 0.9
    assert told["StageFailed"], told
    assert told["finished"] and (told["undone"] or names is READING), told
