"""Stages that are started at the same moment: one acts, the other waits or is told who is at work, nothing is mixed.

Each round is two real processes that wait for one byte on stdin. Afterwards the audit log says in which order they
acted, and every snapshot and the live state must be exactly what that order makes of them. The same rounds are run with
the lock taken out, and then the same checks must fail.
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

import release_tasks
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import LockHeld
from release_tasks.core.lock import FileLock, current_holder, run_lock
from release_tasks.core.records import PreflightReport, SnapshotMetadata
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.stages import prepare
from tests.support.project import Project

# One job a line on stdin, each in a child of its own that says its pid, waits for one byte and acts.
RACER = """
import contextlib, importlib, json, os, signal, sys, time, traceback
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.core.errors import StageError
from release_tasks.core.events import BytesMoved
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.core.records import PreflightReport
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.stages.rollback.swap import Swap
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

def die_after_one_step():
    carry_out = Swap._carry_out
    def one(self, step, act, source):
        carry_out(self, step, act, source)
        os.kill(os.getpid(), signal.SIGKILL)
    Swap._carry_out = one

def die_before_writing(name):
    module = importlib.import_module("release_tasks.archive.pipeline")
    write = module.write_atomic
    def one(path, *more):
        if path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *more)
    module.write_atomic = one

def act(job):
    linger = [job.get("linger")]
    def progress(event):
        step = event.key if isinstance(event, BytesMoved) and event.done else str(event)
        if linger[0] and step.startswith(linger[0][0]):
            seconds, linger[0] = linger[0][1], None
            time.sleep(seconds)
    if job["what"] == "recover":
        return recover(settings).status
    if job["what"] == "prepare":
        run = PreflightRun(
            release_id=job["release"], report=report, health_url=None, only=(), skip=(), strict=False,
            log_directory=Path(sys.argv[1]),
        )
        wanted = with_flags(settings, retention=job.get("retention"))
        return prepare_release(wanted, preflight=run, emit=progress).status
    request = RollbackRequest(snapshot_id=job["snapshot"], force=True, wait=job.get("wait", 0.0))
    outcome = rollback(settings, request, progress)
    assert outcome.status == "restored", outcome.diagnostics
    return outcome.status

@contextlib.contextmanager
def no_lock(root, *_, **__):
    try:
        yield
    finally:
        root.joinpath("lock.json").unlink(missing_ok=True)  # a killed run may have left its name, as with the lock

def run(job):
    if job.get("unlocked"):
        for name in ("prepare", "rollback.attempt", "rollback.recovery"):
            importlib.import_module(f"release_tasks.stages.{name}").run_lock = no_lock
    if job["what"] == "crash":
        die_after_one_step()
    if "dies_before" in job:
        die_before_writing(job["dies_before"])
    print("ready", os.getpid(), flush=True)
    os.read(0, 1)
    time.sleep(job.get("after", 0))
    try:
        answer = {"code": 0, "status": act(job)}
    except StageError as error:
        answer = {"code": int(error.exit_code), "status": "error", "message": error.message}
    except BaseException:
        answer = {"code": None, "status": "defect", "message": traceback.format_exc()}
    print(json.dumps(answer), flush=True)

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

# Holds the lock with no room on its disk to write down who it is.
NAMELESS = """
import resource, sys
from pathlib import Path
from release_tasks.core.lock import run_lock
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with run_lock(Path(sys.argv[1]), "release.prepare"):
    print("held", flush=True)
    sys.stdin.read()
"""

HELD = re.compile(r"'release\.(?P<command>\w+)' \(pid (?P<pid>\d+) on \S+, since 20\d\d-\d\d-\d\dT[\d:.]+Z\)")
ROLLBACK_STEPS = ("recover", "verify", "safety", "stage", "swap")


@frozen(kw_only=True)
class Answer:
    """How a stage ended: its exit code (negative: killed), its status, its sentence."""

    what: str
    pid: int
    code: int | None
    status: str = ""
    message: str = ""


class Racer:
    """A process with everything imported, that runs each job in a child."""

    def __init__(self, project: Project) -> None:
        command = [sys.executable, "-B", "-c", RACER, str(project.folder), json.dumps(project.raw)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.job: dict[str, Any] = {}
        self.pid = 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def order(self, job: dict[str, Any]) -> None:
        """Let a child get ready for ``job``; it waits for ``go``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        word, pid = self._line().split()
        assert word == "ready"
        self.job, self.pid = job, int(pid)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"!")

    def kill(self) -> None:
        """Kill the child that is at work; does nothing when it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def answer(self) -> Answer:
        """Wait for the child's end."""
        line, told = self._line(), {}
        if line.startswith("{"):
            told, end = json.JSONDecoder().raw_decode(line)
            line = line[end:].strip() or self._line()  # a kill may come before the end of the line
        code = int(line.split()[1])
        self.pid, pid = 0, self.pid
        return Answer(what=self.job["what"], pid=pid, **(told if code == 0 else {"code": code}))

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.kill()
        self.process.communicate()


class Scene:
    """A project that has been in three states, each prepared as a release; the third is live."""

    def __init__(self, project: Project, start_writer: Callable[..., subprocess.Popen[str]]) -> None:
        self.project = project
        self.start_writer = start_writer
        self.settings = project.settings
        self.pipeline = Pipeline(self.settings.release.root)
        self.states: dict[int, Any] = {}
        self.digests: dict[int, dict[str, Any]] = {}
        self.snapshots: dict[int, str] = {}
        for number in (1, 2, 3):
            self.become(number)
        self.prepared = len(self.pipeline.audit.verify().events)
        self.template = project.folder.with_name("template")
        shutil.copytree(project.folder, self.template, symlinks=True)

    def become(self, number: int) -> None:
        """Bring every asset to a state that differs from the other two, and prepare a release of it."""
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
        passed = PreflightReport(passed=True, checks=[], failed_checks=[])
        manifest = prepare(self.settings, passed, f"v{number}")
        assert manifest.snapshot is not None
        snapshot = self.pipeline.catalogue.get(manifest.snapshot.snapshot_id)
        self.states[number] = project.content()
        self.digests[number] = files_of(snapshot)
        self.snapshots[number] = snapshot.snapshot_id

    def fresh(self) -> None:
        """Lay everything out as it was before the first round."""
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    @contextlib.contextmanager
    def writer(self, is_wanted: bool) -> Iterator[None]:
        """Let a service write at a thousand transfers a second; it has ended afterwards."""
        process = self.start_writer(self.project.database) if is_wanted else None
        try:
            yield
        finally:
            if process is not None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0

    # What is checked after every round

    def check(self, answers: list[Answer], *, wrote: bool = False, keeps: int = 5) -> None:
        """Fail unless one acted after the other, as they say themselves, and all is as that order makes it."""
        self.check_answers(answers)
        live = self.follow(wrote, [answer for answer in answers if answer.code is not None and answer.code < 0])
        assert self.state_of(self.project.content(), wrote) == live
        self.check_folder(keeps)
        assert not [path for path in self.project.folder.rglob("*") if path.name.startswith(".")]
        assert not self.pipeline.journal_path.exists()
        assert not (self.pipeline.root / "lock.json").exists()
        assert recover(self.settings).detail == "Nothing to recover."

    def check_answers(self, answers: list[Answer]) -> None:
        """At least one acted; who did not says who held the lock, or what the other had taken away."""
        assert any(answer.code == 0 for answer in answers), answers
        for answer, other in zip(answers, reversed(answers), strict=True):
            if answer.code == 75:
                held = HELD.search(answer.message)
                assert held is not None, answer
                assert (held["command"], int(held["pid"])) == (other.what, other.pid), (answer, other)
            elif answer.code == 2:
                assert other.what == "prepare" and other.code == 0, (answer, other)
                assert re.match(r"There is no snapshot 'v1|release id 'v4' was prepared already", answer.message)
            else:
                assert answer.code is not None and answer.code <= 0, answer
                expected = {"rollback": {"restored"}, "prepare": {"ready"}, "recover": {"clean", "finished"}}
                assert answer.code < 0 or answer.status in expected[answer.what], answer

    def follow(self, wrote: bool, killed: list[Answer]) -> int:
        """Read the round's audit events as a story; returns the state in which it ends.

        Each rollback is told to its end before anything else begins, and what each captured is the state of then.
        """
        verdict = self.pipeline.audit.verify(self.pipeline.anchors())
        assert verdict.intact and not verdict.notes, verdict
        live, under_way = 3, ""
        for event in verdict.events[self.prepared :]:
            name, rollback = event["event"], event.get("rollbackId", "")
            snapshot = event.get("snapshotId", "")
            if name == "rollback.refused":
                continue
            assert not under_way or rollback == under_way or killed, (event, under_way)
            if name == "prepare.ready":
                assert killed or self.is_published(snapshot)
                if self.is_published(snapshot):
                    assert self.state_in(snapshot, wrote) == live, event
            elif name == "rollback.started":
                under_way = rollback
            else:
                assert name in ("rollback.finished", "rollback.recovered"), event
                under_way = ""
                if event.get("safetySnapshotId") and name == "rollback.finished":
                    assert self.state_in(event["safetySnapshotId"], wrote) == live, event
                if event["status"] == "restored":
                    live = next(number for number, known in self.snapshots.items() if known == snapshot)
        assert not under_way
        return live

    def check_folder(self, keeps: int) -> None:
        """Every snapshot verifies, and what manifests and the state point at is there."""
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

    def state_of(self, content: Any, wrote: bool) -> int:
        """The one state that files and rows are of; rows may have gone on from it by a writer's whole transfers."""
        numbers = [number for number, state in self.states.items() if state["files"] == content["files"]]
        assert len(numbers) == 1, content["files"]
        self.check_rows(content["rows"], numbers[0], wrote)
        return numbers[0]

    def check_rows(self, rows: Any, number: int, wrote: bool) -> None:
        (accounts, ledger), (began, before) = rows, self.states[number]["rows"]
        assert ledger[: len(before)] == before, (number, ledger[:3])
        assert wrote or len(ledger) == len(before), number
        balances = dict(began)
        for _, giver, taker, amount in ledger[len(before) :]:
            balances[giver] -= amount
            balances[taker] += amount
        assert dict(accounts) == balances, number

    def state_in(self, snapshot_id: str, wrote: bool) -> int:
        """The one state that a snapshot holds."""
        snapshot = self.pipeline.catalogue.get(snapshot_id)
        numbers = [number for number, digests in self.digests.items() if digests == files_of(snapshot)]
        assert len(numbers) == 1, snapshot
        record = snapshot.asset("database")
        assert record is not None
        stored = self.pipeline.catalogue.path(snapshot_id) / record.relative_path
        with contextlib.closing(sqlite3.connect(f"file:{stored}?immutable=1", uri=True)) as database:
            tables = ("SELECT * FROM accounts ORDER BY id", "SELECT * FROM ledger ORDER BY id")
            rows = tuple(database.execute(table).fetchall() for table in tables)
        self.check_rows(rows, numbers[0], wrote)
        return numbers[0]


def files_of(snapshot: SnapshotMetadata) -> dict[str, Any]:
    return {a.key: (a.exists, a.sha256, a.mode) for a in snapshot.assets if a.kind != "sqlite"}


@pytest.fixture
def scene(memory: Path, project_at: Callable[..., Any], start_writer: Callable[..., subprocess.Popen[str]]) -> Scene:
    """A project in the third of three states, each of them a release."""
    folder = memory / "project"
    folder.mkdir()
    return Scene(project_at(folder), start_writer)


@pytest.fixture
def racers(scene: Scene) -> Iterator[tuple[Racer, Racer]]:
    """Two processes that are ready to act on the scene."""
    pair = (Racer(scene.project), Racer(scene.project))
    yield pair
    for racer in pair:
        racer.close()


def jobs_of(kind: str, number: int, scene: Scene, chance: random.Random) -> list[dict[str, Any]]:
    """The two jobs of one round, in any order; in one of five they linger, and half of the rollbacks would wait."""
    rollback: dict[str, Any] = {"what": "rollback", "wait": 30.0 if number % 4 < 2 else 0.0}
    release: dict[str, Any] = {"what": "prepare"}
    if number % 5 == 0:
        rollback["linger"] = (chance.choice(ROLLBACK_STEPS), 0.35)
        release["linger"] = ("database", 0.35)
    to_first = {**rollback, "snapshot": scene.snapshots[1]}
    to_second = {**rollback, "snapshot": scene.snapshots[2]}
    fourth = {**release, "release": "v4"}
    jobs = {
        "two rollbacks": [to_first, to_second],
        "rollback and prepare": [to_first, fourth],
        "rollback and retention": [to_first, {**fourth, "retention": 1}],
        "two prepares": [fourth, fourth if number % 3 == 0 else {**release, "release": "v5"}],
        # Every other recovery comes when the rollback has begun: what it finds then is no leftover.
        "rollback and recover": [to_first, {"what": "recover", "after": (number % 2) * chance.uniform(0, 0.1)}],
    }[kind]
    return jobs if chance.random() < 0.5 else jobs[::-1]


def play(
    scene: Scene,
    racers: tuple[Racer, Racer],
    kind: str,
    number: int,
    *,
    is_locked: bool = True,
    at_once: bool = True,
) -> tuple[list[Answer], Callable[[], None]]:
    """Run one round; returns the answers and the check of what it left."""
    scene.fresh()
    jobs = jobs_of(kind, number, scene, random.Random(f"{kind} {number}"))
    wrote = number % 2 == 1
    with scene.writer(wrote):
        if kind == "rollback and recover" and number % 4 == 0:
            racers[0].order({"what": "crash", "snapshot": scene.snapshots[2]})
            racers[0].go()
            assert racers[0].answer().code == -signal.SIGKILL
            assert scene.pipeline.journal_path.exists()
        for racer, job in zip(racers, jobs, strict=True):
            racer.order({**job, "unlocked": not is_locked})
        answers = []
        for racer in racers:
            racer.go()
            if not at_once:
                answers.append(racer.answer())
        answers = answers or [racer.answer() for racer in racers]
    keeps = 1 if kind == "rollback and retention" else 5
    return answers, functools.partial(scene.check, answers, wrote=wrote, keeps=keeps)


KINDS = ("two rollbacks", "rollback and prepare", "rollback and retention", "two prepares", "rollback and recover")


@pytest.mark.slow
def test_stages_started_together_act_one_after_the_other(scene: Scene, racers: tuple[Racer, Racer]) -> None:
    """One round of each kind, so that the fast selection has this too."""
    for kind in KINDS:
        _, check = play(scene, racers, kind, 1)
        check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_rounds_never_mix_anything(
    scene: Scene, racers: tuple[Racer, Racer], kind: str, tried: Callable[[int], None]
) -> None:
    """Half of them with a service that writes, a fifth with one that lingers in the middle of its work."""
    codes: Counter[int | None] = Counter()
    for number in range(50):
        answers, check = play(scene, racers, kind, number)
        check()
        codes.update(answer.code for answer in answers)
    tried(50)
    if kind != "rollback and recover":  # recover has nothing to do while another run is at work
        assert codes[75] > 0, codes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_lock_the_same_checks_fail(scene: Scene, racers: tuple[Racer, Racer], kind: str) -> None:
    """The lock replaced by nothing: the very same checks find what it prevents, most often within five rounds.

    A recovery and a rollback meet in a short moment only; on a busy machine that took more than fifty rounds once.
    """
    for number in range(300):
        _, check = play(scene, racers, kind, number, is_locked=False)
        try:
            check()
        except Exception as error:
            print(f"{kind}: without the lock, round {number} fails: {error!r:.300}")
            return
    pytest.fail(f"{kind}: 300 rounds without a lock, and no check found anything")


@pytest.mark.slow
def test_without_the_lock_but_one_after_the_other_the_checks_pass(scene: Scene, racers: tuple[Racer, Racer]) -> None:
    """So it is the race that the test above finds, and not the missing lock itself."""
    for kind in KINDS:
        for number in (1, 2):
            _, check = play(scene, racers, kind, number, is_locked=False, at_once=False)
            check()


def lock_is_held_by(scene: Scene, pid: int) -> bool:
    holder = current_holder(scene.pipeline.root)
    return holder is not None and holder.pid == pid


def start_and_wait_for_lock(scene: Scene, racer: Racer, job: dict[str, Any]) -> bool:
    """Start a job and return once it holds the lock; False when it had ended before that was seen."""
    racer.order(job)
    racer.go()
    assert racer.process.stdout is not None
    while not lock_is_held_by(scene, racer.pid):
        if not os.path.exists(f"/proc/{racer.pid}"):
            return False
    return True


def job_to_kill(scene: Scene, number: int) -> dict[str, Any]:
    if number % 3 == 0:
        return {"what": "prepare", "release": "v4"}
    return {"what": "rollback", "snapshot": scene.snapshots[1]}


def measure(scene: Scene, racers: tuple[Racer, Racer]) -> list[float]:
    """How long each of the jobs holds the lock when nobody kills it."""
    seconds = []
    for number in range(3):
        scene.fresh()
        assert start_and_wait_for_lock(scene, racers[0], job_to_kill(scene, number))
        began = time.monotonic()
        assert racers[0].answer().code == 0
        seconds.append(time.monotonic() - began)
    return seconds


def kill_the_holder(scene: Scene, racers: tuple[Racer, Racer], number: int, seconds: float) -> bool:
    """Kill a rollback or a prepare at a random moment, with a rollback waiting for it; says whether it was cut off."""
    scene.fresh()
    wrote = number % 2 == 1
    holder, waiter = racers
    with scene.writer(wrote):
        waiter.order({"what": "rollback", "snapshot": scene.snapshots[2], "wait": 60.0})
        start_and_wait_for_lock(scene, holder, job_to_kill(scene, number))
        waiter.go()
        time.sleep(random.Random(number).uniform(0, seconds))
        holder.kill()
        answers = [holder.answer(), waiter.answer()]
    assert answers[1].status == "restored", answers
    scene.check(answers, wrote=wrote)
    assert scene.state_of(scene.project.content(), wrote) == 2
    return answers[0].code == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_holder_lets_the_waiter_recover_and_go_on(scene: Scene, racers: tuple[Racer, Racer]) -> None:
    """Three kills, so that the fast selection has this too."""
    for number, seconds in enumerate(measure(scene, racers)):
        kill_the_holder(scene, racers, number, seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_killed_holders_let_the_waiter_recover_and_go_on(
    scene: Scene, racers: tuple[Racer, Racer], tried: Callable[[int], None]
) -> None:
    """SIGKILL at random moments, with and without a service that writes: the waiter ends in ``restored``, whole."""
    seconds = measure(scene, racers)
    killed = sum(kill_the_holder(scene, racers, number, seconds[number % 3]) for number in range(50))
    assert killed >= 15
    tried(killed)


@pytest.mark.slow
def test_a_prepare_killed_before_it_is_the_latest_is_the_latest_after_the_next_command(
    scene: Scene, racers: tuple[Racer, Racer]
) -> None:
    """Its manifest makes it a release, so ``latest.json`` and the snapshot follow it, whoever comes next."""
    racers[0].order({"what": "prepare", "release": "v4", "dies_before": "latest.json"})
    racers[0].go()
    killed = racers[0].answer()
    assert killed.code == -signal.SIGKILL
    assert recover(scene.settings).status in ("clean", "discarded")
    latest = scene.pipeline.latest_ready()
    assert latest is not None and latest.release_id == "v4"
    assert latest.snapshot is not None and scene.state_in(latest.snapshot.snapshot_id, False) == 3


@pytest.mark.slow
def test_a_recovery_waits_for_a_rollback_that_has_begun_to_swap_meanwhile(
    scene: Scene, racers: tuple[Racer, Racer]
) -> None:
    """The start gate of a service: it opens after the swap, also when it was asked just before it."""
    with contextlib.closing(sqlite3.connect(scene.project.database, isolation_level=None)) as service:
        service.execute("BEGIN IMMEDIATE")  # the swap cannot be done as long as this one writes
        racers[1].order({"what": "recover"})
        job = {"what": "rollback", "snapshot": scene.snapshots[1], "linger": ("swap", 0.15)}
        assert start_and_wait_for_lock(scene, racers[0], job)
        while not list(scene.project.state.glob(".mcp.json.*")):
            pass  # until everything is staged
        racers[1].go()
        select.select([racers[1].process.stdout], [], [], 1.0)
        service.execute("ROLLBACK")
    answers = [racer.answer() for racer in racers]
    assert [answer.code for answer in answers] == [0, 0], answers
    scene.check(answers)


class Invoke:
    """Real ``inv`` processes in the scene's project."""

    def __init__(self, scene: Scene) -> None:
        self.folder = scene.project.folder
        self.configuration = {
            "tasks": {"executor_class": "release_tasks.executor.StageExecutor"},
            "release": scene.project.raw,
        }
        package = Path(release_tasks.__file__).parent.parent
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON"))}
        self.variables = {**kept, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        (self.folder / "tasks.py").write_text("from release_tasks import ns\n")
        (self.folder / "invoke.yaml").write_text(json.dumps(self.configuration))
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *words, "--json"],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, process: subprocess.Popen[str]) -> Answer:
        """Wait for the end of a process and read its document."""
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in err
        document = json.loads(out)
        what = str(process.args[3]).removeprefix("release.")  # type: ignore[index]
        return Answer(
            what=what,
            pid=process.pid,
            code=process.returncode,
            status=document["status"],
            message=document.get("message", ""),
        )

    def run(self, *words: str) -> Answer:
        return self.answer(self.start(*words))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("wait", ["0s", "60s"])
def test_real_commands_started_together_act_one_after_the_other(scene: Scene, wait: str) -> None:
    """Six rounds of ``inv``: exit 0, or 75 with a document that names the holder; the same checks hold."""
    to_first = ("release.rollback", "--force", "--wait", wait, "--snapshot", scene.snapshots[1])
    to_second = ("release.rollback", "--force", "--wait", wait, "--snapshot", scene.snapshots[2])
    for other in (to_second, ("release.prepare", "--release-id", "v4"), ("release.recover",)):
        scene.fresh()
        inv = Invoke(scene)
        processes = [inv.start(*to_first), inv.start(*other)]
        answers = [inv.answer(process) for process in processes]
        if wait != "0s":
            assert answers[0].code == 0
        scene.check(answers)


@pytest.mark.slow
def test_a_wait_that_is_over_ends_with_75_and_names_the_holder(scene: Scene, racers: tuple[Racer, Racer]) -> None:
    """A rollback stopped in the middle: ``inv`` waits as long as it was told, says who it is, and touches nothing."""
    inv = Invoke(scene)
    holder, _ = racers
    job = {"what": "rollback", "snapshot": scene.snapshots[1], "linger": ("recover", 0.2)}
    assert start_and_wait_for_lock(scene, holder, job)
    pid = holder.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        before = scene.project.content()
        began = time.monotonic()
        answer = inv.run("release.rollback", "--wait", "400ms", "--snapshot", scene.snapshots[2])
        assert time.monotonic() - began > 0.4
        assert (answer.code, answer.status) == (75, "error")
        held = HELD.search(answer.message)
        assert held is not None and (held["command"], int(held["pid"])) == ("rollback", pid)
        assert scene.project.content() == before
    finally:
        os.kill(pid, signal.SIGCONT)
    assert holder.answer().status == "restored"
    assert scene.state_of(scene.project.content(), False) == 1


@pytest.mark.slow
def test_every_other_command_names_the_holder_too_or_leaves_it_alone(scene: Scene, racers: tuple[Racer, Racer]) -> None:
    """Beside a rollback stopped before its swap: prepare ends with 75 before any gate, recover has nothing to do."""
    inv = Invoke(scene)
    holder, _ = racers
    job = {"what": "rollback", "snapshot": scene.snapshots[1], "linger": ("recover", 0.2)}
    assert start_and_wait_for_lock(scene, holder, job)
    pid = holder.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = inv.run("release.prepare", "--release-id", "v4")
        held = HELD.search(answer.message)
        assert answer.code == 75
        assert held is not None and (held["command"], int(held["pid"])) == ("rollback", pid)
        assert inv.run("release.recover").status == "clean"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert holder.answer().status == "restored"
    scene.check([Answer(what="rollback", pid=pid, code=0, status="restored")])


def test_a_holder_that_is_just_letting_go_is_waited_for(tmp_path: Path) -> None:
    """Between removing its name and dropping the lock it cannot be named, so it is given another moment."""
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


def test_a_holder_without_room_for_its_name_is_not_given_that_of_a_killed_run(tmp_path: Path) -> None:
    """A full disk: the refusal names nobody rather than a process that is gone."""
    document = {"pid": 1, "host": "gone", "command": "release.drill", "since": "2020-01-01T00:00:00.000Z"}
    (tmp_path / "lock.json").write_text(json.dumps(document))
    command = [sys.executable, "-c", NAMELESS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        with pytest.raises(LockHeld) as caught, run_lock(tmp_path, "second"):
            pass
        assert "by another run" in caught.value.message
        assert "release.drill" not in caught.value.message
        process.communicate()
