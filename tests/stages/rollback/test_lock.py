"""One command at a time, and an audit event for every attempt: held locks, killed holders, signals."""

from __future__ import annotations

import contextlib
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
from tests.support.faults.listeners import on_steps
from tests.support.faults.stages import prepare
from tests.support.files import file_tree
from tests.support.health import Health
from tests.support.lock_holder import lock_holder
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, rollback_state
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


def test_held_lock_ends_with_75_and_names_the_holder(project: Project) -> None:
    """The message names command, pid and start time; no file changes; the attempt is audited."""
    project.capture()
    project.damage()
    before = file_tree(project.state)
    with lock_holder(project.pipeline.root) as pid, pytest.raises(LockHeld) as caught:
        roll_back(project)
    assert caught.value.exit_code is ExitCode.LOCKED and int(ExitCode.LOCKED) == 75
    assert f"pid {pid}" in caught.value.message
    assert "release.prepare" in caught.value.message and "since 20" in caught.value.message
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "refused")]


@pytest.mark.slow
def test_wait_continues_as_soon_as_the_lock_is_free(project: Project) -> None:
    """--wait: the rollback starts when the holder releases the lock."""
    project.capture()
    project.damage()
    with contextlib.ExitStack() as holder:
        holder.enter_context(lock_holder(project.pipeline.root))
        release = threading.Timer(0.4, holder.close)
        release.start()
        start = time.monotonic()
        assert roll_back(project, wait=30).status == "restored"
        assert 0.3 < time.monotonic() - start < 20
        release.join()


@pytest.mark.slow
def test_wait_ends_with_75_at_its_deadline(project: Project) -> None:
    """Neither before the deadline nor much later."""
    project.capture()
    with lock_holder(project.pipeline.root):
        start = time.monotonic()
        with pytest.raises(LockHeld):
            roll_back(project, wait=0.7)
        assert 0.6 < time.monotonic() - start < 15


def test_killed_holder_does_not_block_a_rollback(project: Project) -> None:
    """The kernel releases the lock with the process, whatever lock.json says."""
    project.capture()
    with lock_holder(project.pipeline.root) as pid:
        os.kill(pid, signal.SIGKILL)
    assert roll_back(project).status == "restored"
    assert project.leftovers() == []


@pytest.mark.slow
def test_concurrent_rollbacks_run_one_after_the_other_or_are_refused(project: Project, scripts: Scripts) -> None:
    """Without --wait the later ones end with 75; with it all restore, and the state is never a mix."""
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
            assert project.leftovers() == []
    assert audit_events(project)[-1] == ("rollback.finished", "restored")


def interrupt_at(step: str) -> Emit:
    """Return an event consumer that sends SIGTERM to this process when the rollback starts ``step``."""

    def act(started: str) -> None:
        if started.startswith(step):
            os.kill(os.getpid(), signal.SIGTERM)

    return on_steps(act)


@pytest.mark.parametrize("step", ["recover", "verify", "safety", "stage"])
def test_signal_before_the_swap_changes_nothing_and_is_audited(project: Project, step: str) -> None:
    """The run ends with 143, leaves live files unchanged and no leftover, and closes the recorded state."""
    project.capture()
    project.damage()
    before = file_tree(project.state)
    with pytest.raises(Interrupted) as caught, interruptible():
        roll_back(project, emit=interrupt_at(step))
    assert caught.value.exit_code == 143
    assert file_tree(project.state) == before
    assert project.leftovers() == []
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
def progress(event):
    if str(event) == "swap":
        os.kill(os.getpid(), signal.SIGTERM)
try:
    with interruptible():
        rollback(settings, RollbackRequest(), progress)
except Interrupted as error:
    sys.exit(int(error.exit_code))
"""


@pytest.mark.slow
def test_signal_during_the_swap_acts_after_it(project: Project) -> None:
    """The swap is completed: the new state is live, the journal is removed, and the next rollback is a noop."""
    before = project.content()
    project.capture()
    project.damage()
    command = [sys.executable, "-c", SIGNALLED, str(project.folder), json.dumps(project.raw)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 143
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert project.leftovers() == []
    assert audit_events(project)[-1][0] == "rollback.refused"
    state = rollback_state(project)
    assert state.status == "failed" and state.restored
    assert roll_back(project).status == "noop"


def test_signal_during_the_swap_acts_after_it_in_a_program_with_threads(project: Project) -> None:
    """Any program may call a stage; Python runs the handler in the main thread, whichever thread got the signal."""
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


def test_signal_during_the_health_check_keeps_the_restored_state(project: Project, health: Health) -> None:
    """Ctrl-C while the rollback waits for a service that does not become healthy."""
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


def test_signal_during_the_wait_for_the_lock_is_audited(project: Project) -> None:
    """An attempt that never got the lock leaves an audit event too."""
    project.capture()
    with lock_holder(project.pipeline.root):
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Interrupted), interruptible():
            roll_back(project, wait=30)
        timer.join()
    assert [status for _, status in audit_events(project)] == ["refused"]


def test_prepare_is_refused_while_a_journal_exists(project: Project) -> None:
    """A mixed state is never captured as a release."""
    project.capture()
    project.pipeline.journal_path.write_text("{}")
    report = PreflightReport(passed=True, checks=[], failed_checks=[])
    with pytest.raises(StageFailed, match="recover"):
        prepare(project.settings, report, "v2")


def test_every_attempt_leaves_an_event_in_one_chain(project: Project) -> None:
    """Restored, noop, forced and refused attempts are audited, and the chain matches all anchors."""
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
