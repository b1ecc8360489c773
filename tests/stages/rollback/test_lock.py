"""One at a time, and every attempt on record: held locks, killed holders, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageFailed, UsageError
from release_tasks.core.events import Emit
from release_tasks.core.interrupt import interruptible
from release_tasks.core.lock import run_lock
from release_tasks.core.records import PreflightReport
from tests.support.faults.stages import prepare
from tests.support.faults.telling import at_steps
from tests.support.health import Health
from tests.support.project import Project
from tests.support.rollback import audit_events, file_tree, roll_back, rollback_state
from tests.support.scripts import Scripts

ROLLBACK = """
import json, sys
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.core.errors import StageError
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.core.codec import encode
folder = Path(sys.argv[1])
settings = load_settings({"release": json.loads(sys.argv[2])}, folder)
print("ready", flush=True)
sys.stdin.readline()
try:
    outcome = rollback(settings, RollbackRequest(force=True, wait=float(sys.argv[3])))
except StageError as error:
    print(int(error.exit_code), error.message)
else:
    print(outcome.status, outcome.diagnostics)
"""


def test_a_held_lock_ends_with_75_and_names_its_holder(project: Project, scripts: Scripts) -> None:
    """Command, pid and since when; nothing is touched; the attempt is audited."""
    project.capture()
    project.damage()
    holder = scripts.hold_lock(project.pipeline.root)
    before = file_tree(project.state)
    with pytest.raises(LockHeld) as caught:
        roll_back(project)
    assert caught.value.exit_code is ExitCode.LOCKED and int(ExitCode.LOCKED) == 75
    assert f"pid {holder.pid}" in caught.value.message
    assert "release.prepare" in caught.value.message and "since 20" in caught.value.message
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "refused")]


def test_wait_waits_for_the_holder(project: Project, scripts: Scripts) -> None:
    """--wait: as soon as it is free, it goes on."""
    project.capture()
    project.damage()
    holder = scripts.hold_lock(project.pipeline.root)
    assert holder.stdin is not None
    threading.Timer(0.4, holder.stdin.close).start()
    began = time.monotonic()
    assert roll_back(project, wait=30).status == "restored"
    assert 0.3 < time.monotonic() - began < 20


def test_wait_ends_with_75_when_its_time_is_over(project: Project, scripts: Scripts) -> None:
    """Not before and not much later."""
    project.capture()
    scripts.hold_lock(project.pipeline.root)
    began = time.monotonic()
    with pytest.raises(LockHeld):
        roll_back(project, wait=0.7)
    assert 0.6 < time.monotonic() - began < 15


def test_a_killed_holder_blocks_nobody(project: Project, scripts: Scripts) -> None:
    """The lock dies with it, whatever it wrote down."""
    project.capture()
    holder = scripts.hold_lock(project.pipeline.root)
    holder.kill()
    holder.wait()
    assert roll_back(project).status == "restored"
    assert project.strays() == []


@pytest.mark.slow
def test_two_rollbacks_at_once_are_one_after_the_other_or_refused(project: Project, scripts: Scripts) -> None:
    """Without --wait one of them is told 75; with it both restore; never a mix."""
    before = project.content()
    project.capture()
    for wait, expected in ((0, {"restored", "75"}), (60, {"restored"})):
        project.mcp.touch()
        project.damage()
        runs = [scripts.start(ROLLBACK, str(project.folder), json.dumps(project.raw), str(wait)) for _ in range(3)]
        with run_lock(project.pipeline.root, "the test", 10):
            for run in runs:
                assert run.stdin is not None
                run.stdin.write("\n")
                run.stdin.flush()
            if wait == 0:
                answers = [run.communicate(timeout=60)[0] for run in runs[1:]]
                assert {answer.split()[0] for answer in answers} == {"75"}
        answers = [runs[0].communicate(timeout=60)[0]] if wait == 0 else []
        if wait:
            answers = [run.communicate(timeout=60)[0] for run in runs]
        assert {answer.split()[0] for answer in answers} <= expected, answers
        if wait:
            assert project.content() == before
            assert project.strays() == []
    assert audit_events(project)[-1] == ("rollback.finished", "restored")


def interrupt_at(step: str) -> Emit:
    """Return a consumer that sends SIGTERM to this process when the rollback says ``step``."""

    def progress(told: str) -> None:
        if told.startswith(step):
            os.kill(os.getpid(), signal.SIGTERM)

    return at_steps(progress)


@pytest.mark.parametrize("step", ["recover", "verify", "safety", "stage"])
def test_a_signal_before_the_swap_leaves_everything_and_is_audited(project: Project, step: str) -> None:
    """Interrupted comes through with 143; nothing live is touched, nothing lies about, the state is closed."""
    project.capture()
    project.damage()
    before = file_tree(project.state)
    with pytest.raises(Interrupted) as caught, interruptible():
        roll_back(project, emit=interrupt_at(step))
    assert caught.value.exit_code == 143
    assert file_tree(project.state) == before
    assert project.strays() == []
    assert not project.pipeline.journal_path.exists()
    assert audit_events(project)[-1] == ("rollback.refused", "refused")
    state = project.pipeline.read_state()
    assert state is None or state.status == "failed"


SIGNALLED = """
import json, os, signal, sys
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import interruptible
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
folder = Path(sys.argv[1])
settings = load_settings({"release": json.loads(sys.argv[2])}, folder)
def progress(told):
    if str(told) == "swap":
        os.kill(os.getpid(), signal.SIGTERM)
try:
    with interruptible():
        rollback(settings, RollbackRequest(), progress)
except Interrupted as error:
    sys.exit(int(error.exit_code))
"""


def test_a_signal_during_the_swap_acts_after_it(project: Project) -> None:
    """The swap is not cut in two: all new, journal gone, and the next rollback has nothing left to do."""
    before = project.content()
    project.capture()
    project.damage()
    command = [sys.executable, "-c", SIGNALLED, str(project.folder), json.dumps(project.raw)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 143
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert project.strays() == []
    assert audit_events(project)[-1][0] == "rollback.refused"
    state = rollback_state(project)
    assert state.status == "failed" and state.restored
    assert roll_back(project).status == "noop"


def test_a_signal_during_the_swap_acts_after_it_in_a_program_with_threads(project: Project) -> None:
    """A stage may be called from any program, and Python runs the handler in the main thread whoever got it."""
    before = project.content()
    project.capture()
    project.damage()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(Interrupted), interruptible():
            roll_back(project, emit=interrupt_at("swap"))
    finally:
        done.set()
        thread.join()
    assert project.content() == before


def test_a_signal_during_health_keeps_the_restored_state(project: Project, health: Health) -> None:
    """Ctrl-C while it waits for a service that does not come up."""
    before = project.content()
    project.capture()
    project.damage()
    project.overrides["health.url"] = health.url
    project.overrides["health.deadline"] = "60s"
    health.status = 500
    with pytest.raises(Interrupted), interruptible():
        roll_back(project, emit=interrupt_at("health"))
    assert project.content() == before
    assert audit_events(project)[-1][0] == "rollback.refused"
    assert rollback_state(project).restored


def test_a_signal_while_waiting_for_the_lock_is_audited(project: Project, scripts: Scripts) -> None:
    """Every attempt, also one that never got its turn."""
    project.capture()
    scripts.hold_lock(project.pipeline.root)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted), interruptible():
        roll_back(project, wait=30)
    timer.join()
    assert [status for _, status in audit_events(project)] == ["refused"]


def test_prepare_is_refused_while_a_journal_waits(project: Project) -> None:
    """A mixed state is never captured as a release."""
    project.capture()
    project.pipeline.journal_path.write_text("{}")
    report = PreflightReport(passed=True, checks=[], failed_checks=[])
    with pytest.raises(StageFailed, match="recover"):
        prepare(project.settings, report, "v2")


def test_every_attempt_is_on_record_in_one_chain(project: Project) -> None:
    """Restored, noop, forced, refused: one event at least for each, and the chain holds with all anchors."""
    project.capture()
    project.damage()
    roll_back(project)
    roll_back(project)
    roll_back(project, force=True)
    with pytest.raises(UsageError):
        roll_back(project, "nowhere")
    assert audit_events(project) == [
        ("rollback.started", "in_progress"),
        ("rollback.finished", "restored"),
        ("rollback.finished", "noop"),
        ("rollback.started", "in_progress"),
        ("rollback.finished", "restored"),
        ("rollback.refused", "refused"),
    ]
    log = project.pipeline.root / "rollback-audit.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]))
    assert not project.pipeline.audit.verify(project.pipeline.anchors()).intact, "cut short"
    log.write_bytes(b"".join(lines).replace(b'"noop"', b'"nop"'))
    assert not project.pipeline.audit.verify().intact, "altered"
