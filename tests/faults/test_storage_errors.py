"""A stage in which any one system call fails ends in ``failed`` with a message, and the state is whole.

Some tests try a seeded share of the calls. With EVERY_CALL in the environment all tests try every call.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.mark import ParameterSet

from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.failing_calls import CHANGING, OPENING, READING, Ended, FailingCalls, why_not
from tests.support.faults.marks import MOUNTS
from tests.support.faults.scenario import MakeScenarioProject, OverlayScenario, Scenario, damage_header

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"NOT TESTED: {why_not()}")

slow = [pytest.mark.slow, pytest.mark.timeout(900)]
as_root = [*slow, *MOUNTS]
CHANGES = CHANGING + OPENING
MESSAGE = re.compile(r"[.?]$|: inv [a-z]+\.[a-z]+[^.]*$")  # it ends as a sentence, or with a command
SEED = 20261


class MakeScenario(Protocol):
    """Make a scenario: ``wal``, ``delete``, ``damaged`` or ``overlay``."""

    def __call__(self, kind: str, *, releases: tuple[str, ...] = ()) -> Scenario: ...


class StartFailing(Protocol):
    """Start a process that runs stages in which a call of ``names`` fails with ``error``."""

    def __call__(
        self, error: str, names: Sequence[str], job: dict[str, Any], *, is_lasting: bool = False
    ) -> FailingCalls: ...


@pytest.fixture
def make_scenario(make_scenario_project: MakeScenarioProject) -> Iterator[MakeScenario]:
    """Return a maker of scenarios on a filesystem in memory."""
    made: list[Scenario] = []

    def make(kind: str, *, releases: tuple[str, ...] = ()) -> Scenario:
        project = make_scenario_project("wal" if kind == "wal" else "delete")
        if releases:
            project.overrides["assets.mcp"] = {"file": "state/mcp.json", "required": False}
        scenario_class = OverlayScenario if kind == "overlay" else Scenario
        damage = damage_header if kind == "damaged" else None
        made.append(scenario_class(project, damage=damage, releases=releases))
        return made[0]

    yield make
    for scenario in made:
        scenario.close()


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[StartFailing]:
    """Return a starter of processes that run stages with a failing call."""
    started: list[FailingCalls] = []

    def start(error: str, names: Sequence[str], job: dict[str, Any], *, is_lasting: bool = False) -> FailingCalls:
        trace = tmp_path / f"trace-{len(started)}"
        started.append(FailingCalls(error, names, job, trace, is_lasting=is_lasting))
        return started[-1]

    yield start
    for process in started:
        process.close()


def points(scenario: Scenario, calls: FailingCalls, job: dict[str, Any], share: float) -> list[tuple[str, int]]:
    """Run the job without a failure and return its calls, or a seeded share of them in random order.

    The job runs three times, and calls that are not in each run do not count: a file that has just been written is
    sometimes read twice.
    """
    counted: list[Counter[str]] = []
    for _ in range(3):
        scenario.reset()
        counted.append(calls.run(job).calls)
    return share_of(counted[0] & counted[1] & counted[2], share)


def share_of(counted: Counter[str], share: float) -> list[tuple[str, int]]:
    every = [(name, number) for name, count in sorted(counted.items()) for number in range(1, count + 1)]
    assert every
    if share == 1 or "EVERY_CALL" in os.environ:
        return every
    return random.Random(SEED).sample(every, max(1, int(len(every) * share)))


def assert_message(ended: Ended, point: object) -> None:
    """Fail unless the stage ended with a message and without a traceback."""
    assert not ended.traceback, (point, ended)
    assert ended.messages and (MESSAGE.search(ended.messages[0]) or ended.result == "blocked"), (point, ended)


def check_rollback_result(scenario: Scenario, ended: Ended, inode: int, point: object) -> str:
    """Check the promises of the rollback itself; returns the state after it."""
    assert not ended.traceback, (point, ended)
    left = scenario.state()
    if ended.result in ("restored", "noop"):
        assert left == "new", (point, left, ended)
    else:
        assert ended.result == "failed", (point, ended)
        assert_message(ended, point)
        message = " ".join(ended.messages)
        if "The undo also failed" in message:  # strace counts the calls of each thread, so two of them can fail
            assert scenario.project.pipeline.journal_path.exists() and "inv release.recover" in message, (point, ended)
            return left
        assert left in ("old", "new"), (point, left, ended)
        assert left == "old" or "is live" in message, (point, ended)
        assert left == "new" or "is live" not in message, (point, ended)
        has_journal = scenario.project.pipeline.journal_path.exists()
        assert not has_journal or "is live" in message or "inv release.recover" in message, (point, ended)
    if inode:
        assert scenario.project.database.stat().st_ino == inode, (point, "a sound database was replaced", ended)
    return left


def check_next_command(scenario: Scenario, left: str, point: object, number: int) -> None:
    """Check the next command: a recover, or at every other point another rollback."""
    settings = scenario.project.settings
    if number % 2:
        had_journal = scenario.project.pipeline.journal_path.exists()
        recover(settings)
        now = scenario.state()
        assert now == left or (had_journal and now in ("old", "new")), (point, left, now)
    assert rollback(settings, RollbackRequest()).status in ("restored", "noop"), point
    assert scenario.state() == "new", (point, scenario.state())
    verdict = scenario.project.pipeline.audit.verify(scenario.project.pipeline.anchors())
    assert verdict.intact, (point, verdict.problems)
    assert scenario.project.leftovers() == [], point
    if number % 10 == 0:
        scenario.assert_pipeline_intact(point)


def rollbacks(*, kind: str, error: str, names: Sequence[str], share: float) -> ParameterSet:
    """Return the parameters of one rollback test: the share of its calls that fail, one at a time."""
    marks = as_root if kind == "overlay" else slow
    groups = {"changing": CHANGING, "opening": OPENING, "changing or opening": CHANGES, "reading": READING}
    group = next((word for word, calls in groups.items() if calls is names), ",".join(names))
    return pytest.param(kind, error, names, share, marks=marks, id=f"{kind}, {error}, {group}")


@pytest.mark.parametrize(
    ("kind", "error", "names", "share"),
    [
        rollbacks(kind="wal", error="EIO", names=CHANGING, share=0.06),
        rollbacks(kind="wal", error="EIO", names=OPENING, share=0.04),
        rollbacks(kind="wal", error="EIO", names=READING, share=0.02),
        rollbacks(kind="wal", error="ENOSPC", names=CHANGES, share=0.02),
        rollbacks(kind="wal", error="EROFS", names=CHANGES, share=0.02),
        rollbacks(kind="wal", error="EMFILE", names=OPENING, share=0.02),
        rollbacks(kind="delete", error="EIO", names=CHANGES, share=0.03),
        rollbacks(kind="delete", error="EDQUOT", names=["write", "pwrite64", "mkdir", "openat"], share=0.02),
        rollbacks(kind="damaged", error="EIO", names=CHANGES, share=0.03),
        rollbacks(kind="overlay", error="EIO", names=CHANGING, share=0.03),
        rollbacks(kind="overlay", error="EIO", names=OPENING, share=0.04),
        rollbacks(kind="overlay", error="EIO", names=READING, share=0.02),
        rollbacks(kind="delete", error="EIO", names=READING, share=0.02),
    ],
)
def test_rollback_with_a_failing_call_leaves_all_old_or_all_new(
    make_scenario: MakeScenario,
    failing: StartFailing,
    report_points: Callable[[int], None],
    kind: str,
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """No mix, no replacement of a sound database file, a message, and a next command that works."""
    scenario = make_scenario(kind)
    scenario.reset()
    job = scenario.job("rollback")
    calls = failing(error, names, job)
    chosen = points(scenario, calls, job, share)
    failed = done = 0
    for index, (name, number) in enumerate(chosen):
        scenario.reset()
        inode = scenario.project.database.stat().st_ino if kind in ("wal", "delete") else 0
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not has_failed_call(ended, name, point):
            continue
        left = check_rollback_result(scenario, ended, inode, point)
        check_next_command(scenario, left, point, index)
        failed += ended.result == "failed"
        done += 1
    report_points(done)
    assert done > len(chosen) * 0.9
    assert failed > len(chosen) / 10


@pytest.mark.slow
def test_rollback_with_a_failing_call_of_each_kind_leaves_all_old_or_all_new(
    make_scenario: MakeScenario, failing: StartFailing, report_points: Callable[[int], None]
) -> None:
    """Reads and writes of databases, renames and flushes: some of the points above, for a quick run."""
    scenario = make_scenario("wal")
    scenario.reset()
    job = scenario.job("rollback")
    calls = failing("EIO", ["pread64", "pwrite64", "renameat2", "rename", "fdatasync"], job)
    counted: Counter[str] = Counter(name for name, _ in points(scenario, calls, job, 1))
    chosen = [(name, count - count // 3) for name, count in sorted(counted.items())]
    for index, (name, number) in enumerate([*chosen, ("pread64", 5)]):
        scenario.reset()
        inode = scenario.project.database.stat().st_ino
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        left = check_rollback_result(scenario, ended, inode, point)
        check_next_command(scenario, left, point, index)
    report_points(len(chosen) + 1)


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
def test_rollback_on_a_failing_disk_is_recovered_on_a_working_disk(
    make_scenario: MakeScenario,
    failing: StartFailing,
    report_points: Callable[[int], None],
    error: str,
    name: str,
) -> None:
    """From one call on every such call fails, also while undoing; the message names the command that recovers."""
    scenario = make_scenario("wal")
    scenario.reset()
    job = scenario.job("rollback")
    calls = failing(error, [name], job, is_lasting=True)
    chosen = points(scenario, calls, job, 1)
    states: Counter[str] = Counter()
    for _, number in chosen[:: max(1, len(chosen) // 15)]:
        scenario.reset()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        left = scenario.state()
        assert not ended.traceback, (point, ended)
        if ended.result == "failed":
            assert_message(ended, point)
            message = " ".join(ended.messages)
            has_journal = scenario.project.pipeline.journal_path.exists()
            assert left in ("old", "new") or (has_journal and "may be mixed" in message), (point, left, ended)
            assert not has_journal or "is live" in message or "inv release.recover" in message, (point, left, ended)
        else:
            assert left == "new", (point, left, ended)
        states[left if left in ("old", "new") else "mixed"] += 1
        scenario.check_rollback(point, directly=number % 2 == 0)
    report_points(sum(states.values()))
    assert states["old"] and (states["new"] or name == "pwrite64"), states


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_error_names_its_file(
    make_scenario: MakeScenario, failing: StartFailing, report_points: Callable[[int], None]
) -> None:
    """Also for calls with a descriptor: "Input/output error" alone does not tell which disk has failed."""
    scenario = make_scenario("delete")
    scenario.reset()
    job = scenario.job("rollback")
    calls = failing("EIO", ["write", "fsync", "fchmod", "flock", "read", "pread64", "getdents64", "readlinkat"], job)
    folder = str(scenario.project.folder)
    chosen = points(scenario, calls, job, 0.2)
    nameless = []
    for name, number in chosen:
        scenario.reset()
        ended = calls.run(job, name, number)
        # A snapshot that cannot be read is named by its id.
        if ended.result == "failed" and not any(word in ended.messages[0] for word in (folder, "Snapshot", "snapshot")):
            nameless.append((name, number, ended.failed_call, ended.messages))
    report_points(len(chosen))
    assert not nameless, nameless


def has_failed_call(ended: Ended, name: str, point: object) -> bool:
    """Return whether strace failed the call; the number of reads depends on the load of the machine."""
    assert ended.failed_call or name in READING, (point, "the call was not made")
    return bool(ended.failed_call)


def check_prepare_result(scenario: Scenario, ended: Ended, point: object) -> None:
    """Check the promises of the prepare itself: a whole release or none, and an unchanged state."""
    pipeline = scenario.project.pipeline
    assert scenario.state() == "old", (point, "the live state was changed", ended)
    latest = pipeline.latest_ready()
    assert latest is not None and latest.snapshot is not None, (point, ended)
    snapshots = [snapshot.snapshot_id for snapshot in pipeline.catalogue.published()[0]]
    assert latest.snapshot.snapshot_id in snapshots, (point, "the snapshot of the latest release does not exist", ended)
    if ended.result == "ready":
        assert latest.release_id == "failing", (point, ended)
        return
    assert ended.result in ("blocked", "StageFailed"), (point, ended)
    assert_message(ended, point)
    assert latest.release_id == "v2", (point, ended)
    ready = [file.release_id for file in pipeline.read_manifests() if file.manifest and file.manifest.status == "ready"]
    assert ready == ["v1", "v2"], (point, ready, ended)
    assert [name for name in snapshots if name.startswith("failing")] == [], (point, ended)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("error", "names", "share"),
    [
        pytest.param("EIO", CHANGES, 0.05, id="EIO, changing or opening"),
        pytest.param("EIO", READING, 0.05, id="EIO, reading"),
        pytest.param("ENOSPC", CHANGES, 0.02, id="ENOSPC, changing or opening"),
        pytest.param("EROFS", CHANGES, 0.02, id="EROFS, changing or opening"),
    ],
)
def test_prepare_with_a_failing_call_makes_a_whole_release_or_none(
    make_scenario: MakeScenario,
    failing: StartFailing,
    report_points: Callable[[int], None],
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """It is ready, or blocked with a message; the snapshot in latest.json exists, and the next prepare is ready."""
    scenario = make_scenario("wal", releases=("v1", "v2"))
    scenario.reset()
    job = scenario.job("prepare", release_id="failing")
    calls = failing(error, names, job)
    chosen = points(scenario, calls, job, share)
    results: Counter[str] = Counter()
    for name, number in chosen:
        scenario.reset()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not has_failed_call(ended, name, point):
            continue
        check_prepare_result(scenario, ended, point)
        scenario.check_prepare(point)
        results[ended.result] += 1
    report_points(results.total())
    assert results.total() > len(chosen) * 0.9
    assert results["blocked"] > len(chosen) / 10, results


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "journal_writes", "error", "names", "share"),
    [
        pytest.param("wal", 4, "EIO", CHANGES, 0.125, id="wal, EIO, changing or opening"),
        pytest.param("wal", 4, "EIO", READING, 0.075, id="wal, EIO, reading"),
        pytest.param("wal", 1, "ENOSPC", CHANGES, 0.075, id="wal, ENOSPC, changing or opening"),
        pytest.param("delete", 2, "EROFS", CHANGES, 0.075, id="delete, EROFS, changing or opening"),
        pytest.param("damaged", 1, "EIO", CHANGES, 0.1, id="damaged, EIO, changing or opening"),
    ],
)
def test_recovery_with_a_failing_call_is_finished_by_the_next(
    make_scenario: MakeScenario,
    failing: StartFailing,
    report_points: Callable[[int], None],
    kind: str,
    journal_writes: int,
    error: str,
    names: Sequence[str],
    share: float,
) -> None:
    """It reports success only when the state is whole, or fails with a message."""
    scenario = make_scenario(kind)
    scenario.reset()
    killed, job = scenario.job("killed rollback", journal_writes=journal_writes), scenario.job("recover")
    calls = failing(error, names, scenario.job("rollback"))

    def reset() -> None:
        scenario.restore_files()
        calls.run(killed)
        assert scenario.project.pipeline.journal_path.exists()

    reset()
    chosen = share_of(calls.run(job).calls, share)
    results: Counter[str] = Counter()
    for name, number in chosen:
        reset()
        ended = calls.run(job, name, number)
        point = (name, number, ended.failed_call)
        if not has_failed_call(ended, name, point):
            continue
        assert_message(ended, point)
        left = scenario.state()
        if ended.result == "StageFailed":
            assert left in ("old", "new") or scenario.project.pipeline.journal_path.exists(), (point, left, ended)
        else:
            assert ended.result in ("finished", "undone"), (point, ended)
            assert left == {"finished": "new", "undone": "old"}[ended.result], (point, left, ended)
        scenario.check_rollback(point)
        results[ended.result] += 1
    report_points(results.total())
    assert results.total() > len(chosen) * 0.9
    assert results["StageFailed"], results
    assert results["finished"] and (results["undone"] or names is READING), results
