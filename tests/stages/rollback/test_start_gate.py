"""The start gate: no service passes it while a rollback may still change the live state; afterwards every one does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.status import release_status
from release_tasks.assets import base, placing
from release_tasks.assets.sqlite import kind as sqlite
from release_tasks.assets.sqlite import restore
from release_tasks.core.errors import ExitCode, LockHeld
from release_tasks.core.events import BytesMoved, Event, HealthAnswered, StepBegan
from release_tasks.core.lock import ExistingFileLock, FileLock, current_holder
from release_tasks.core.records import RollbackJournal
from release_tasks.report.status import overview
from release_tasks.stages.rollback import journal, swap
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import call_at, crash_after_journal_writes
from tests.support.faults.listeners import on_steps
from tests.support.files import file_tree
from tests.support.health import Health
from tests.support.lock_holder import lock_holder
from tests.support.processes import await_true
from tests.support.project import Project
from tests.support.rollback import roll_back
from tests.support.scripts import Scripts

BEFORE = ["recover", "verify", "safety snapshot", "stage", "swap"]
AFTER = ["restart", "health"]

# A rollback that stops, on a line of its input, before the step or the write of the journal that it is given.
ROLLBACK = """
import json, sys
from pathlib import Path
from release_tasks.core.events import StepBegan
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.tasks.project import load_settings
settings = load_settings({"release": json.loads(sys.argv[2])}, Path(sys.argv[1]))
def pause():
    print("ready", flush=True)
    sys.stdin.readline()
def progress(event):
    if isinstance(event, StepBegan) and event.name == sys.argv[3]:
        pause()
write_journal = swap.write_journal
def write(*arguments):
    if sys.argv[3] == "write_journal":
        pause()
    return write_journal(*arguments)
swap.write_journal = write
outcome = rollback(settings, RollbackRequest(), progress)
print(outcome.status, outcome.diagnostics)
"""

# A supervisor: it starts the crashing service again and again. Every start passes the gate, reads the state and ends.
SUPERVISOR = """
import json, os, sys, time
from pathlib import Path
from release_tasks.core.errors import LockHeld
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
folder, records = Path(sys.argv[1]), Path(sys.argv[3])
settings = load_settings({"release": json.loads(sys.argv[2])}, folder)
log = os.open(records, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def text(name):
    path = folder / "state" / name
    return path.read_text() if path.exists() else None
def serve():
    record = {"start": time.monotonic(), "passed": True, "state": None}
    try:
        recover(settings, wait=0.1)
        names = ("identity/identity.json", "identity/intruder", "mcp.json", "extra.json")
        record["state"] = [text(name) for name in names]
    except LockHeld:
        record["passed"] = False
    os.write(log, (json.dumps({**record, "end": time.monotonic()}) + "\\n").encode())
print("ready", flush=True)
while True:
    service = os.fork()
    if service == 0:
        try:
            serve()
        finally:
            os._exit(1)
    os.waitpid(service, 0)
    time.sleep(0.01)
"""


def gate(project: Project, wait: float = 0.0) -> str:
    """Return the answer of the start gate: the status of the recovery, or ``held``."""
    try:
        return recover(project.settings, wait=wait).status
    except LockHeld as held:
        assert held.exit_code is ExitCode.LOCKED
        return "held"


@pytest.fixture
def damaged(project: Project) -> Project:
    """Return a project with a snapshot of a state that was damaged afterwards."""
    project.capture()
    project.damage()
    return project


def answers_at_every_event(project: Project, **options: Any) -> list[tuple[str, str]]:
    """Roll back, and ask the gate at every event and around every call that the swap is made of."""
    answers: list[tuple[str, str]] = []
    step = ""

    def ask(_: object = None) -> None:
        answers.append((step, gate(project)))

    def emit(event: Event) -> None:
        nonlocal step
        step = event.name if isinstance(event, StepBegan) else step
        if isinstance(event, StepBegan | BytesMoved | HealthAnswered):
            ask()

    def asked(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            ask()
            result = real(*arguments, **named)
            ask()
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap, "write_journal", asked(journal.write_journal))
        patch.setattr(sqlite, "restore_database", asked(restore.restore_database))
        patch.setattr(base, "rename_into_place", asked(placing.rename_into_place))
        assert roll_back(project, emit=emit, **options).status == "restored"
    return answers


@pytest.mark.slow
def test_gate_holds_at_every_moment_until_the_end_of_the_swap_and_then_passes(damaged: Project, health: Health) -> None:
    """At every event, and before and after every change of the swap; the restart command starts the service."""
    answers = answers_at_every_event(damaged, health_url=health.url, restart_command="true")
    assert {step for step, _ in answers} == {*BEFORE, *AFTER}
    assert {answer for step, answer in answers if step in BEFORE} == {"held"}
    assert {answer for step, answer in answers if step in AFTER} == {"clean"}
    assert sum(step == "swap" for step, _ in answers) > 10


@pytest.mark.slow
def test_gate_passes_in_a_rollback_that_only_restarts(damaged: Project, health: Health) -> None:
    """The state is in place and the service is down: the service may start, and the restart command can start it."""
    assert roll_back(damaged).status == "restored"
    health.status = 500
    answers: dict[str, str] = {}

    def ask(step: str) -> None:
        answers[step] = gate(damaged)
        if step == "restart":
            health.status = 200

    outcome = roll_back(damaged, health_url=health.url, restart_command="true", emit=on_steps(ask))
    assert outcome.status == "restored", outcome.diagnostics
    assert (answers["health"], answers["restart"]) == ("clean", "clean")
    assert [step for step, answer in answers.items() if answer == "held"][:1] == ["recover"]


def test_gate_passes_after_a_rollback_that_failed_before_its_swap(damaged: Project) -> None:
    """The lock is free, nothing live was changed, and the leftovers are removed."""
    before = damaged.content()
    damaged.overrides["assets"] = {**damaged.raw["assets"], "mcp": {"directory": "state/mcp.json"}}
    answers: dict[str, str] = {}
    outcome = roll_back(damaged, emit=on_steps(lambda step: answers.update({step: gate(damaged)})))
    assert outcome.status == "failed"
    assert set(answers.values()) == {"held"}
    assert gate(damaged) == "clean"
    assert damaged.content() == before


@pytest.mark.slow
def test_gate_is_closed_for_the_swap_although_another_process_held_it_at_first(
    damaged: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was suspended while it passed the gate goes on later, and leaves the gate closed."""
    passing, answers = FileLock(damaged.pipeline.root / "start-gate"), dict[str, str]()
    assert passing.acquire()

    def ask(step: str) -> None:
        if step == "stage":
            passing.release()
        answers[step.split()[0]] = gate(damaged)

    monkeypatch.setattr(swap, "write_journal", call_at(1, journal.write_journal, lambda: ask("exchange")))
    assert roll_back(damaged, emit=on_steps(ask)).status == "restored"
    assert answers["verify"] == answers["exchange"] == "held"


def test_services_pass_the_gate_together(damaged: Project) -> None:
    """A process that passes the gate does not hold another one, which would say that a rollback runs."""
    assert roll_back(damaged).status == "restored"
    with ExistingFileLock(damaged.pipeline.root / "start-gate").held() as is_held:
        assert is_held
        assert gate(damaged) == "clean"


@pytest.mark.slow
def test_gate_holds_while_a_rollback_that_restarts_stops_the_service(damaged: Project, health: Health) -> None:
    """The state is in place and health fails. What the service saves at its end may need another restore."""
    assert roll_back(damaged).status == "restored"
    health.status = 500
    damaged.overrides |= {"restart.stop": "true", "restart.command": "true", "health.deadline": "200ms"}
    answers: dict[str, str] = {}
    ask = on_steps(lambda step: answers.update({step.split()[0]: gate(damaged)}))
    roll_back(damaged, health_url=health.url, emit=ask)
    assert (answers["stop"], answers["restart"]) == ("held", "clean")


@contextlib.contextmanager
def paused(project: Project, at: str) -> Iterator[Any]:
    """Start a rollback in another process, which stops at a step; it is killed at the end of the block."""
    scripts = Scripts()
    try:
        yield scripts.start(ROLLBACK, str(project.folder), json.dumps(project.raw), at)
    finally:
        scripts.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "answer"), [("verify", "clean"), ("safety snapshot", "discarded"), ("write_journal", "finished")]
)
def test_gate_recovers_and_passes_when_the_rollback_is_killed(damaged: Project, at: str, answer: str) -> None:
    """A service that waits at the gate of a killed rollback starts on exactly the old or exactly the new state."""
    old = damaged.content()
    answers: list[str] = []
    with paused(damaged, at) as process:
        assert gate(damaged) == "held"
        waiting = threading.Thread(target=lambda: answers.append(gate(damaged, wait=60)))
        waiting.start()
        waiting.join(0.3)
        assert answers == []
        os.kill(process.pid, signal.SIGKILL)
        waiting.join(60)
    assert answers == [answer]
    assert (damaged.content() == old) == (answer != "finished")
    assert damaged.leftovers() == []


def test_gate_waits_for_the_end_of_the_swap_and_not_for_the_end_of_the_rollback(
    damaged: Project, health: Health
) -> None:
    """A service that waits at the gate is what the health check waits for."""
    health.status = 503
    passed = threading.Event()

    def serve() -> None:
        assert gate(damaged, wait=60) == "clean"
        passed.set()
        health.status = 200

    waiting = threading.Thread(target=serve)

    def act(step: str) -> None:
        if step == "safety snapshot":
            waiting.start()
        elif step == "health":
            waiting.join(60)
        elif not step.startswith(("recover", "verify")):
            assert step == "restart" or not passed.is_set()

    outcome = roll_back(damaged, health_url=health.url, restart_command="true", emit=on_steps(act))
    assert outcome.status == "restored", outcome.diagnostics
    assert passed.is_set()


@pytest.mark.slow
def test_gate_holds_without_a_readable_record_of_the_holder(damaged: Project) -> None:
    """On a full disk nothing says which command holds the lock: the gate of a rollback holds all the same."""
    record = damaged.pipeline.root / "lock.json"
    (record / "occupied").mkdir(parents=True)
    with paused(damaged, "safety snapshot") as process:
        assert current_holder(damaged.pipeline.root) is None
        assert gate(damaged) == "held"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("restored")
    assert gate(damaged) == "clean"


@pytest.mark.parametrize("is_nameless", [False, True])
@pytest.mark.parametrize("command", ["release.prepare", "release.drill"])
def test_gate_does_not_wait_for_commands_that_change_nothing_live(
    damaged: Project, command: str, is_nameless: bool
) -> None:
    """Also when a rollback was killed before: its record and its gate belong to no process."""
    with crash_after_journal_writes(1):
        roll_back(damaged)
    assert gate(damaged) == "finished"
    (damaged.pipeline.root / "lock.json").write_text('{"command": "release.rollback", "stage": "before swap"}')
    with lock_holder(damaged.pipeline.root, command, is_nameless=is_nameless):
        assert gate(damaged) == "clean"


def test_gate_creates_nothing_where_nothing_was_ever_rolled_back(project: Project) -> None:
    """Looking at the gate leaves the pipeline folder as it is."""
    before = file_tree(project.folder)
    assert gate(project) == "clean"
    assert file_tree(project.folder) == before


def test_status_and_refusals_name_the_stage_of_the_holder(damaged: Project) -> None:
    """The record of the holder has the stage and the rollback id, changes with the stage and is gone at the end."""
    seen: dict[str, Any] = {}
    refusals: dict[str, str] = {}

    def look(step: str) -> None:
        name = step.split()[0]
        seen[name] = overview(damaged.settings, 10, release_status(damaged.settings))["lock"]
        try:
            recover(damaged.settings, wait=0)
        except LockHeld as held:
            refusals[name] = held.message

    outcome = roll_back(damaged, restart_command="true", emit=on_steps(look))
    stages = {step: lock["stage"] for step, lock in seen.items()}
    assert stages == {
        "recover": "before swap",
        "verify": "before swap",
        "safety": "before swap",
        "stage": "before swap",
        "swap": "before swap",
        "restart": "after swap",
    }
    assert {f"safety_snapshot_{lock['rollbackId']}" for lock in seen.values()} == {outcome.safety_snapshot_id}
    assert "has not finished its swap" in refusals["stage"] and f"pid {os.getpid()}" in refusals["stage"]
    assert "inv release.recover --wait" in refusals["stage"]
    assert overview(damaged.settings, 10, release_status(damaged.settings))["lock"] is None


def read_records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_supervised_service_never_opens_a_state_that_is_about_to_be_replaced(
    damaged: Project, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor restarts a crashing service through the gate, without end, during three rollbacks."""
    records = damaged.folder / "starts"
    scripts.start(SUPERVISOR, str(damaged.folder), json.dumps(damaged.raw), str(records))
    good = ['{"id": "one"}', None, '{"mcpServers": {}}', None]

    def starts(since: float, *, passed: bool) -> list[dict[str, Any]]:
        return [each for each in read_records(records) if each["start"] > since and each["passed"] == passed]

    def await_refused() -> None:
        since = time.monotonic()
        await_true(lambda: starts(since, passed=False), seconds=60)

    def write_journal(pipeline: Pipeline, journal: RollbackJournal) -> RollbackJournal:
        await_refused()
        return write(pipeline, journal)

    def roll_back_under_pressure() -> None:
        begins: list[float] = []

        def act(step: str) -> None:
            begins.append(time.monotonic())
            await_refused()

        assert roll_back(damaged, emit=on_steps(act)).status == "restored"
        assert len(starts(begins[0], passed=False)) >= len(BEFORE)
        await_true(lambda: len(starts(begins[0], passed=True)) >= 2, seconds=60)
        ends = time.monotonic()
        opened = [each for each in starts(begins[0], passed=True) if each["end"] < ends]
        assert [each for each in opened if each["state"] != good] == []

    write = journal.write_journal
    monkeypatch.setattr(swap, "write_journal", write_journal)
    for _ in range(3):
        roll_back_under_pressure()
        damaged.damage()
    assert len(read_records(records)) > 20
