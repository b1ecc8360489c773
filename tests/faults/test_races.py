"""Of two stages started at the same time one acts, and the other waits or reports the holder of the lock.

Each round has two real processes that wait for one byte on stdin. The audit log gives the order in which they acted;
every snapshot and the live state must follow from that order. The same rounds run without the lock, and then the same
checks must fail.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import LockHeld
from release_tasks.core.lock import FileLock, current_holder, run_lock
from release_tasks.core.records import SnapshotMetadata
from release_tasks.stages.rollback.recovery import recover
from tests.support.commands import start_inv, write_project_files
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.lock_holder import lock_holder, stopped
from tests.support.project import Ledger, Project
from tests.support.writer import StartWriter

# Reads one job a line from stdin. Each runs in a child, which prints its pid, waits for one byte and acts.
RUNNER = """
import contextlib, importlib, json, os, signal, sys, time, traceback
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.core.errors import StageError
from release_tasks.core.events import BytesMoved
from release_tasks.core.lock import RunLock
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.core.records import PreflightReport
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.stages.rollback import swap
from release_tasks.tasks.flags import with_flags

settings = load_settings({"release": json.loads(sys.argv[2])}, Path(sys.argv[1]))
report = PreflightReport(passed=True, checks=[], failed_checks=[])

def read_line():
    line = b""
    while not line.endswith(b"\\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit()
        line += byte
    return line

def die_after_the_database():
    write, count = swap.write_journal, 0
    def counted(*arguments):
        nonlocal count
        count += 1
        journal = write(*arguments)
        if count == 2:  # the database is noted as begun, then as done
            os.kill(os.getpid(), signal.SIGKILL)
        return journal
    swap.write_journal = counted

def die_before_writing(name):
    module = importlib.import_module("release_tasks.archive.pipeline")
    write = module.write_atomic
    def checked(path, *more):
        if path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *more)
    module.write_atomic = checked

def act(job):
    pause = [job.get("pause")]
    def progress(event):
        step = event.key if isinstance(event, BytesMoved) and event.done else str(event)
        if pause[0] and step.startswith(pause[0][0]):
            seconds, pause[0] = pause[0][1], None
            time.sleep(seconds)
    if job["what"] == "recover":
        return recover(settings).status
    if job["what"] == "prepare":
        run = PreflightRun(
            release_id=job["release"], report=report, health_url=None, only=(), skip=(), strict=False,
            log_directory=Path(sys.argv[1]),
        )
        changed = with_flags(settings, retention=job.get("retention"))
        return prepare_release(changed, preflight=run, emit=progress).status
    request = RollbackRequest(snapshot_id=job["snapshot"], force=True, wait=job.get("wait", 0.0))
    outcome = rollback(settings, request, progress)
    assert outcome.status == "restored", outcome.diagnostics
    return outcome.status

@contextlib.contextmanager
def no_lock(root, *_, **__):
    try:
        yield RunLock(root, "without the lock")
    finally:
        root.joinpath("lock.json").unlink(missing_ok=True)  # a killed run may leave the file, as with the lock

class NoFileLock:
    # The start gate takes a lock of its own, which would keep two rollbacks apart for a second.
    def __init__(self, path):
        pass
    def acquire(self, wait):
        return True
    def release(self):
        pass

def run(job):
    if job.get("unlocked"):
        for name in ("prepare", "rollback.attempt", "rollback.recovery"):
            importlib.import_module(f"release_tasks.stages.{name}").run_lock = no_lock
        importlib.import_module("release_tasks.stages.rollback.start_gate").FileLock = NoFileLock
    if job["what"] == "crash":
        die_after_the_database()
    if "dies_before" in job:
        die_before_writing(job["dies_before"])
    print("ready", os.getpid(), flush=True)
    os.read(0, 1)
    time.sleep(job.get("after", 0))
    try:
        result = {"code": 0, "status": act(job)}
    except StageError as error:
        result = {"code": int(error.exit_code), "status": "error", "message": error.message}
    except BaseException:
        result = {"code": None, "status": "defect", "message": traceback.format_exc()}
    print(json.dumps(result), flush=True)

while True:
    job = json.loads(read_line())
    child = os.fork()
    if child == 0:
        try:
            run(job)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("exit", code, flush=True)
"""

HELD = re.compile(r"'release\.(?P<command>\w+)' \(pid (?P<pid>\d+) on \S+, since 20\d\d-\d\d-\d\dT[\d:.]+Z\)")
ROLLBACK_STEPS = ("recover", "verify", "safety", "stage", "swap")


@frozen(kw_only=True)
class Result:
    """How a stage ended: its exit code (negative: killed), its status and its message."""

    what: str
    pid: int
    code: int | None
    status: str = ""
    message: str = ""


class StageRunner:
    """A process with all imports done that runs each job in a child."""

    def __init__(self, project: Project) -> None:
        command = [sys.executable, "-B", "-c", RUNNER, str(project.folder), json.dumps(project.raw)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.job: dict[str, Any] = {}
        self.pid = 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def prepare_job(self, job: dict[str, Any]) -> None:
        """Start a child for ``job``; it waits for ``start``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        word, pid = self._line().split()
        assert word == "ready"
        self.job, self.pid = job, int(pid)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"!")

    def kill(self) -> None:
        """Kill the running child; does nothing when it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def result(self) -> Result:
        """Wait for the end of the child."""
        line = self._line()
        report: dict[str, Any] = {}
        if line.startswith("{"):
            report, end = json.JSONDecoder().raw_decode(line)
            line = line[end:].strip() or self._line()  # a kill may come before the end of the line
        code = int(line.split()[1])
        self.pid, pid = 0, self.pid
        return Result(what=self.job["what"], pid=pid, **(report if code == 0 else {"code": code}))

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.kill()
        self.process.communicate()


class RaceScenario:
    """A project with three states, each prepared as a release; the third is live."""

    def __init__(self, project: Project, start_writer: StartWriter) -> None:
        self.project = project
        self.start_writer = start_writer
        self.settings = project.settings
        self.pipeline = Pipeline(self.settings.release.root)
        self.states: dict[int, dict[str, Any]] = {}
        self.digests: dict[int, dict[str, Any]] = {}
        self.snapshots: dict[int, str] = {}
        for number in (1, 2, 3):
            self.enter_state(number)
        self.prepared = len(self.pipeline.audit.verify().events)
        self.template = project.folder.with_name("template")
        shutil.copytree(project.folder, self.template, symlinks=True)

    def enter_state(self, number: int) -> None:
        """Bring every asset to a state of its own and prepare a release of it."""
        project = self.project
        with contextlib.closing(sqlite3.connect(project.database)) as database:
            database.execute("DELETE FROM ledger")
            database.execute("INSERT INTO ledger(a, b, amount) VALUES (0, 0, ?)", (number,))
            database.execute("UPDATE accounts SET balance = ?", (100 + number,))
            database.commit()
        (project.identity / "identity.json").write_text(f'{{"id": {number}}}')
        (project.identity / f"only-{number - 1}").unlink(missing_ok=True)
        (project.identity / f"only-{number}").touch()
        project.mcp.write_text(f'{{"mcpServers": {{}}, "state": {number}}}')
        if number == 2:
            project.extra.write_text("{}")
        else:
            project.extra.unlink(missing_ok=True)
        manifest = prepare(self.settings, passed_preflight(), f"v{number}")
        assert manifest.snapshot is not None
        snapshot = self.pipeline.catalogue.get(manifest.snapshot.snapshot_id)
        self.states[number] = project.content()
        self.digests[number] = files_of(snapshot)
        self.snapshots[number] = snapshot.snapshot_id

    def reset(self) -> None:
        """Bring everything back to the start of the first round."""
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    @contextlib.contextmanager
    def writer(self, has_writer: bool) -> Iterator[None]:
        """Let a service write while the block runs, at most a thousand transfers a second."""
        process = self.start_writer(self.project.database) if has_writer else None
        try:
            yield
        finally:
            if process is not None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0

    # What is checked after every round

    def check(self, results: list[Result], *, has_writer: bool = False, keeps: int = 5) -> None:
        """Fail unless the stages acted one after the other and the files are what that order makes of them."""
        self.check_results(results)
        live = self.follow(has_writer, [result for result in results if result.code is not None and result.code < 0])
        assert self.state_of(self.project.content(), has_writer) == live
        self.check_folder(keeps)
        assert self.project.leftovers() == []
        assert not self.pipeline.journal_path.exists()
        assert not (self.pipeline.root / "lock.json").exists()
        assert recover(self.settings).detail == "Nothing to recover."

    def check_results(self, results: list[Result]) -> None:
        """Fail unless one stage acted, and the other acted too or reports the holder or what the first one removed."""
        assert any(result.code == 0 for result in results), results
        for result, other in zip(results, reversed(results), strict=True):
            if result.code == 75:
                held = HELD.search(result.message)
                assert held is not None, result
                assert (held["command"], int(held["pid"])) == (other.what, other.pid), (result, other)
            elif result.code == 2:
                assert other.what == "prepare" and other.code == 0, (result, other)
                assert re.match(r"There is no snapshot 'v1|release id 'v4' was prepared already", result.message)
            else:
                assert result.code is not None and result.code <= 0, result
                expected = {"rollback": {"restored"}, "prepare": {"ready"}, "recover": {"clean", "finished"}}
                assert result.code < 0 or result.status in expected[result.what], result

    def follow(self, has_writer: bool, killed: list[Result]) -> int:
        """Follow the round's audit events in their order; returns the state after the last one.

        Each rollback ends before the next event starts, and each capture contains the state of its time.
        """
        verdict = self.pipeline.audit.verify(self.pipeline.anchors())
        assert verdict.intact and not verdict.notes, verdict
        live, running = 3, ""
        for event in verdict.events[self.prepared :]:
            name, rollback = event["event"], event.get("rollbackId", "")
            snapshot = event.get("snapshotId", "")
            if name in ("rollback.refused", "retention.applied", "snapshot.taken", "prepare.published"):
                continue
            assert not running or rollback == running or killed, (event, running)
            if name == "prepare.ready":
                assert killed or self.is_published(snapshot)
                if self.is_published(snapshot):
                    assert self.state_in(snapshot, has_writer) == live, event
            elif name == "rollback.started":
                running = rollback
            else:
                assert name in ("rollback.finished", "rollback.recovered"), event
                running = ""
                if event.get("safetySnapshotId") and name == "rollback.finished":
                    assert self.state_in(event["safetySnapshotId"], has_writer) == live, event
                if event["status"] == "restored":
                    live = next(number for number, known in self.snapshots.items() if known == snapshot)
        assert not running
        return live

    def check_folder(self, keeps: int) -> None:
        """Fail unless every snapshot verifies and the snapshots of manifests and rollback state exist."""
        verdicts = verify_all(self.pipeline.catalogue)
        assert {verdict.status for verdict in verdicts} == {"verified"}, verdicts
        snapshots, unreadable = self.pipeline.catalogue.published()
        assert not unreadable
        sequences = [snapshot.sequence for snapshot in snapshots]
        assert len(set(sequences)) == len(sequences), snapshots
        manifests = [file.manifest for file in self.pipeline.read_manifests()]
        ready = [manifest for manifest in manifests if manifest is not None and manifest.status == "ready"]
        assert len(ready) == len(manifests)
        assert len({manifest.sequence for manifest in ready}) == len(ready), ready
        for manifest in ready[-keeps:]:
            assert manifest.snapshot is not None and self.is_published(manifest.snapshot.snapshot_id), manifest
        assert self.pipeline.latest_ready() == ready[-1]
        state = self.pipeline.read_state()
        if state is not None:
            assert state.status in ("success", "failed")
            for name in (state.restored_snapshot_id, state.safety_snapshot_id):
                assert name is None or self.is_published(name), state

    def is_published(self, snapshot_id: str) -> bool:
        return (self.pipeline.catalogue.path(snapshot_id) / "metadata.json").exists()

    def state_of(self, content: dict[str, Any], has_writer: bool) -> int:
        """Return the state of files and rows; rows may also contain whole transfers of a writer since then."""
        numbers = [number for number, state in self.states.items() if state["files"] == content["files"]]
        assert len(numbers) == 1, content["files"]
        self.check_rows(content["rows"], numbers[0], has_writer)
        return numbers[0]

    def check_rows(self, rows: Ledger, number: int, has_writer: bool) -> None:
        (accounts, ledger), (balances_before, before) = rows, self.states[number]["rows"]
        assert ledger[: len(before)] == before, (number, ledger[:3])
        assert has_writer or len(ledger) == len(before), number
        balances = dict(balances_before)
        for _, giver, taker, amount in ledger[len(before) :]:
            balances[giver] -= amount
            balances[taker] += amount
        assert dict(accounts) == balances, number

    def state_in(self, snapshot_id: str, has_writer: bool) -> int:
        """Return the state that a snapshot contains."""
        snapshot = self.pipeline.catalogue.get(snapshot_id)
        numbers = [number for number, digests in self.digests.items() if digests == files_of(snapshot)]
        assert len(numbers) == 1, snapshot
        record = snapshot.asset("database")
        assert record is not None
        stored = self.pipeline.catalogue.path(snapshot_id) / record.relative_path
        with contextlib.closing(sqlite3.connect(f"file:{stored}?immutable=1", uri=True)) as database:
            accounts = database.execute("SELECT * FROM accounts ORDER BY id").fetchall()
            ledger = database.execute("SELECT * FROM ledger ORDER BY id").fetchall()
        self.check_rows((accounts, ledger), numbers[0], has_writer)
        return numbers[0]


def files_of(snapshot: SnapshotMetadata) -> dict[str, Any]:
    return {a.key: (a.exists, a.sha256, a.mode) for a in snapshot.assets if a.kind != "sqlite"}


@pytest.fixture
def scenario(memory: Path, start_writer: StartWriter) -> RaceScenario:
    """A project in the third of three states, each of them a release."""
    folder = memory / "project"
    folder.mkdir()
    return RaceScenario(Project(folder), start_writer)


@pytest.fixture
def runners(scenario: RaceScenario) -> Iterator[tuple[StageRunner, StageRunner]]:
    """Two processes that are ready to run stages of the scenario."""
    pair = (StageRunner(scenario.project), StageRunner(scenario.project))
    yield pair
    for runner in pair:
        runner.close()


def jobs_of(kind: str, number: int, scenario: RaceScenario, chooser: random.Random) -> list[dict[str, Any]]:
    """Return the two jobs of one round in random order; every fifth round has pauses, half of the rollbacks wait."""
    rollback: dict[str, Any] = {"what": "rollback", "wait": 30.0 if number % 4 < 2 else 0.0}
    release: dict[str, Any] = {"what": "prepare"}
    if number % 5 == 0:
        rollback["pause"] = (chooser.choice(ROLLBACK_STEPS), 0.35)
        release["pause"] = ("database", 0.35)
    to_first = {**rollback, "snapshot": scenario.snapshots[1]}
    to_second = {**rollback, "snapshot": scenario.snapshots[2]}
    fourth = {**release, "release": "v4"}
    jobs = {
        "two rollbacks": [to_first, to_second],
        "rollback and prepare": [to_first, fourth],
        "rollback and retention": [to_first, {**fourth, "retention": 1}],
        "two prepares": [fourth, fourth if number % 3 == 0 else {**release, "release": "v5"}],
        # Every other recovery starts during the rollback: the files it finds then are not leftovers.
        "rollback and recover": [to_first, {"what": "recover", "after": (number % 2) * chooser.uniform(0, 0.1)}],
    }[kind]
    return jobs if chooser.random() < 0.5 else jobs[::-1]


def run_round(
    scenario: RaceScenario,
    runners: tuple[StageRunner, StageRunner],
    kind: str,
    number: int,
    *,
    is_locked: bool = True,
    together: bool = True,
) -> tuple[list[Result], Callable[[], None]]:
    """Run one round; returns the results and the check of the files it left."""
    scenario.reset()
    jobs = jobs_of(kind, number, scenario, random.Random(f"{kind} {number}"))
    has_writer = number % 2 == 1
    with scenario.writer(has_writer):
        if kind == "rollback and recover" and number % 4 == 0:
            runners[0].prepare_job({"what": "crash", "snapshot": scenario.snapshots[2]})
            runners[0].start()
            assert runners[0].result().code == -signal.SIGKILL
            assert scenario.pipeline.journal_path.exists()
        for runner, job in zip(runners, jobs, strict=True):
            runner.prepare_job({**job, "unlocked": not is_locked})
        results = []
        for runner in runners:
            runner.start()
            if not together:
                results.append(runner.result())
        results = results or [runner.result() for runner in runners]
    keeps = 1 if kind == "rollback and retention" else 5
    return results, functools.partial(scenario.check, results, has_writer=has_writer, keeps=keeps)


KINDS = ("two rollbacks", "rollback and prepare", "rollback and retention", "two prepares", "rollback and recover")


@pytest.mark.slow
def test_stages_started_together_run_one_after_the_other(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """One round of each kind, for a quick run of this file."""
    for kind in KINDS:
        _, check = run_round(scenario, runners, kind, 1)
        check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_rounds_leave_no_mix(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner], kind: str, report_points: Callable[[int], None]
) -> None:
    """Half of the rounds have a service that writes; a fifth have a stage that pauses in the middle."""
    codes: Counter[int | None] = Counter()
    for number in range(50):
        results, check = run_round(scenario, runners, kind, number)
        check()
        codes.update(result.code for result in results)
    report_points(50)
    if kind != "rollback and recover":  # recover has nothing to do while another command runs
        assert codes[75] > 0, codes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_lock_the_same_checks_fail(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner], kind: str
) -> None:
    """Without the locks of a stage and its start gate the checks find a fault, most often within five rounds.

    A recovery and a rollback rarely collide; on a busy machine it once took more than fifty rounds.
    """
    for number in range(300):
        _, check = run_round(scenario, runners, kind, number, is_locked=False)
        try:
            check()
        except Exception as error:
            print(f"{kind}: without the lock, round {number} fails: {error!r:.300}")
            return
    pytest.fail(f"{kind}: 300 rounds without a lock, and no check found a fault")


@pytest.mark.slow
def test_without_the_lock_but_one_after_the_other_the_checks_pass(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """The test above finds the race, not the missing lock itself."""
    for kind in KINDS:
        for number in (1, 2):
            _, check = run_round(scenario, runners, kind, number, is_locked=False, together=False)
            check()


def lock_is_held_by(scenario: RaceScenario, pid: int) -> bool:
    holder = current_holder(scenario.pipeline.root)
    return holder is not None and holder.pid == pid


def start_and_wait_for_lock(scenario: RaceScenario, runner: StageRunner, job: dict[str, Any]) -> bool:
    """Start a job and return True once it holds the lock, False when it ended before that was observed."""
    runner.prepare_job(job)
    runner.start()
    assert runner.process.stdout is not None
    while not lock_is_held_by(scenario, runner.pid):
        if not os.path.exists(f"/proc/{runner.pid}"):
            return False
    return True


def job_to_kill(scenario: RaceScenario, number: int) -> dict[str, Any]:
    if number % 3 == 0:
        return {"what": "prepare", "release": "v4"}
    return {"what": "rollback", "snapshot": scenario.snapshots[1]}


def measure(scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]) -> list[float]:
    """Return for each job how long it holds the lock when it is not killed."""
    seconds = []
    for number in range(3):
        scenario.reset()
        assert start_and_wait_for_lock(scenario, runners[0], job_to_kill(scenario, number))
        started = time.monotonic()
        assert runners[0].result().code == 0
        seconds.append(time.monotonic() - started)
    return seconds


def kill_the_holder(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner], number: int, seconds: float
) -> bool:
    """Kill a rollback or a prepare at a random moment while a rollback waits; return whether it was running."""
    scenario.reset()
    has_writer = number % 2 == 1
    holder, waiter = runners
    with scenario.writer(has_writer):
        waiter.prepare_job({"what": "rollback", "snapshot": scenario.snapshots[2], "wait": 60.0})
        start_and_wait_for_lock(scenario, holder, job_to_kill(scenario, number))
        waiter.start()
        time.sleep(random.Random(number).uniform(0, seconds))
        holder.kill()
        results = [holder.result(), waiter.result()]
    assert results[1].status == "restored", results
    scenario.check(results, has_writer=has_writer)
    assert scenario.state_of(scenario.project.content(), has_writer) == 2
    return results[0].code == -signal.SIGKILL


@pytest.mark.slow
def test_waiter_recovers_and_continues_after_the_holder_is_killed(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """Three kills, for a quick run of this file."""
    for number, seconds in enumerate(measure(scenario, runners)):
        kill_the_holder(scenario, runners, number, seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_waiter_recovers_and_continues_after_fifty_killed_holders(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner], report_points: Callable[[int], None]
) -> None:
    """SIGKILL at random moments, with and without a service that writes: the waiter ends in ``restored``."""
    seconds = measure(scenario, runners)
    killed = sum(kill_the_holder(scenario, runners, number, seconds[number % 3]) for number in range(50))
    assert killed >= 15
    report_points(killed)


@pytest.mark.slow
def test_prepare_killed_before_latest_json_is_latest_after_the_next_command(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """The manifest makes it a release; any next command updates ``latest.json`` and keeps the snapshot."""
    runners[0].prepare_job({"what": "prepare", "release": "v4", "dies_before": "latest.json"})
    runners[0].start()
    killed = runners[0].result()
    assert killed.code == -signal.SIGKILL
    assert recover(scenario.settings).status in ("clean", "discarded")
    latest = scenario.pipeline.latest_ready()
    assert latest is not None and latest.release_id == "v4"
    assert latest.snapshot is not None and scenario.state_in(latest.snapshot.snapshot_id, False) == 3


@pytest.mark.slow
def test_recovery_waits_for_a_rollback_that_starts_its_swap(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """As the start gate of a service it ends after the swap, also when it started just before it."""
    with contextlib.closing(sqlite3.connect(scenario.project.database, isolation_level=None)) as service:
        service.execute("BEGIN IMMEDIATE")  # the swap waits for this transaction
        runners[1].prepare_job({"what": "recover"})
        job = {"what": "rollback", "snapshot": scenario.snapshots[1], "pause": ("swap", 0.15)}
        assert start_and_wait_for_lock(scenario, runners[0], job)
        while not list(scenario.project.state.glob(".mcp.json.*")):
            pass  # until everything is staged
        runners[1].start()
        assert runners[1].process.stdout is not None
        select.select([runners[1].process.stdout], [], [], 1.0)
        service.execute("ROLLBACK")
    results = [runner.result() for runner in runners]
    assert [result.code for result in results] == [0, 0], results
    scenario.check(results)


class Inv:
    """Real ``inv`` processes in the project of the scenario."""

    def __init__(self, scenario: RaceScenario) -> None:
        self.project = scenario.project

    def start(self, command: str, *words: str) -> subprocess.Popen[str]:
        write_project_files(self.project.folder, self.project.raw)
        return start_inv(self.project.folder, command, *words, "--json")

    def result(self, command: str, process: subprocess.Popen[str]) -> Result:
        """Wait for the end of a process and read its document."""
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in err
        document = json.loads(out)
        return Result(
            what=command.removeprefix("release."),
            pid=process.pid,
            code=process.returncode,
            status=document["status"],
            message=document.get("message", ""),
        )

    def run(self, command: str, *words: str) -> Result:
        return self.result(command, self.start(command, *words))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("wait", ["0s", "60s"])
def test_inv_commands_started_together_run_one_after_the_other(scenario: RaceScenario, wait: str) -> None:
    """Six rounds of ``inv`` end with exit 0, or with 75 and a document that names the holder; the checks pass."""
    to_first = ("release.rollback", "--force", "--wait", wait, "--snapshot", scenario.snapshots[1])
    to_second = ("release.rollback", "--force", "--wait", wait, "--snapshot", scenario.snapshots[2])
    others: list[tuple[str, ...]] = [to_second, ("release.prepare", "--release-id", "v4"), ("release.recover",)]
    for other in others:
        scenario.reset()
        inv = Inv(scenario)
        processes = [inv.start(*words) for words in (to_first, other)]
        results = [inv.result(words[0], process) for words, process in zip((to_first, other), processes, strict=True)]
        if wait != "0s":
            assert results[0].code == 0
        scenario.check(results)


@contextlib.contextmanager
def stopped_rollback(scenario: RaceScenario, runner: StageRunner) -> Iterator[int]:
    """Stop a rollback that holds the lock, before its swap, while the block runs; yields its process id."""
    job = {"what": "rollback", "snapshot": scenario.snapshots[1], "pause": ("recover", 0.2)}
    assert start_and_wait_for_lock(scenario, runner, job)
    pid = runner.pid
    with stopped(pid):
        yield pid
    assert runner.result().status == "restored"


def assert_names_rollback(result: Result, pid: int) -> None:
    """Fail unless a command ended with 75 and a message that names the rollback with this process id."""
    assert (result.code, result.status) == (75, "error")
    held = HELD.search(result.message)
    assert held is not None and (held["command"], int(held["pid"])) == ("rollback", pid)


@pytest.mark.slow
def test_wait_that_times_out_ends_with_75_and_names_the_holder(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """While a rollback is stopped, ``inv`` waits for the time of ``--wait``, names the holder and changes nothing."""
    inv = Inv(scenario)
    with stopped_rollback(scenario, runners[0]) as pid:
        before = scenario.project.content()
        started = time.monotonic()
        result = inv.run("release.rollback", "--wait", "400ms", "--snapshot", scenario.snapshots[2])
        assert time.monotonic() - started > 0.4
        assert_names_rollback(result, pid)
        assert scenario.project.content() == before
    assert scenario.state_of(scenario.project.content(), False) == 1


@pytest.mark.slow
def test_other_commands_name_the_holder_or_do_nothing(
    scenario: RaceScenario, runners: tuple[StageRunner, StageRunner]
) -> None:
    """While a rollback is stopped before its swap, prepare ends with 75 before any gate, and recover waits."""
    inv = Inv(scenario)
    with stopped_rollback(scenario, runners[0]) as pid:
        assert_names_rollback(inv.run("release.prepare", "--release-id", "v4"), pid)
        assert_names_rollback(inv.run("release.recover", "--wait", "0s"), pid)
        waiting = inv.start("release.recover")
    assert inv.result("release.recover", waiting).status == "clean"
    scenario.check([Result(what="rollback", pid=pid, code=0, status="restored")])


def test_lock_is_waited_for_while_its_holder_releases_it(tmp_path: Path) -> None:
    """A holder has no name between the removal of lock.json and the release of the lock, so a run waits a moment."""
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    timer = threading.Timer(0.35, lock.release)
    timer.start()
    try:
        with run_lock(tmp_path, "second"):
            holder = current_holder(tmp_path)
            assert holder is not None and holder.command == "second"
    finally:
        timer.join()


@pytest.mark.slow
def test_holder_without_a_name_does_not_get_the_name_of_a_killed_run(tmp_path: Path) -> None:
    """On a full disk lock.json still names a dead process; the message must not name it."""
    document = {"pid": 1, "host": "gone", "command": "release.drill", "since": "2020-01-01T00:00:00.000Z"}
    (tmp_path / "lock.json").write_text(json.dumps(document))
    with lock_holder(tmp_path, is_nameless=True):
        with pytest.raises(LockHeld) as caught, run_lock(tmp_path, "second"):
            pass
        assert "by another run" in caught.value.message
        assert "release.drill" not in caught.value.message
