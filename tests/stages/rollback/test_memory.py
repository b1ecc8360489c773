"""State that lives in a process: the service is stopped before the restore, and state that it wrote back is found."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from release_tasks.core.errors import Interrupted, StageFailed
from release_tasks.core.interrupt import interruptible
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import fail_at
from tests.support.faults.listeners import on_steps
from tests.support.processes import await_true, is_running
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, safety_folder
from tests.support.swap_crash import SwapCall, crash_at, crash_in_mid_swap

GOOD, BAD = '{"mcpServers": {}}', '{"mcpServers": {"broken": {}}}'

# A service as Redis with a save at exit: it reads its file at its start, and writes its memory over it at its end.
STORE = """
import http.server, os, signal, sys, threading
path, pid, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = open(path).read()
def save(*_):
    with open(path + ".new", "w") as file:
        file.write(memory)
    os.replace(path + ".new", path)
    os._exit(0)
signal.signal(signal.SIGTERM, save)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists(pid + ".ill") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
with open(pid + ".new", "w") as file:
    file.write(str(os.getpid()))
os.replace(pid + ".new", pid)
server.serve_forever()
"""


@frozen
class Store:
    """A running store, and the commands that stop and start it."""

    pid_file: Path
    port: int
    command: str

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def stop(self) -> str:
        # The link of a zombie cannot be read; ``kill -0`` would succeed.
        name = shlex.quote(str(self.pid_file))
        return f"kill -TERM $(cat {name}) && while readlink /proc/$(cat {name})/exe > /dev/null; do sleep 0.02; done"

    @property
    def start(self) -> str:
        name = shlex.quote(str(self.pid_file))
        return f"rm -f {name} {name}.ill; {self.command} & while [ ! -e {name} ]; do sleep 0.02; done"


@pytest.fixture
def store(project: Project, free_port: int) -> Iterator[Store]:
    """Return a store that has bad state in its memory and in its file; a snapshot holds the good state."""
    project.capture()
    project.mcp.write_text(BAD)
    pid_file, script = project.folder / "store.pid", project.folder / "store.py"
    script.write_text(STORE)
    words = [sys.executable, str(script), str(project.mcp), str(pid_file), str(free_port)]
    project.overrides.update(
        {"health.url": f"http://127.0.0.1:{free_port}/health", "health.deadline": "20s", "restart.settle": "100ms"}
    )
    process = subprocess.Popen(words)
    try:
        await_true(pid_file.exists, seconds=30)
        yield Store(pid_file, free_port, shlex.join(words))
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_without_health_a_command_that_still_runs_is_said(project: Project) -> None:
    """The process that it ends may save its state later: nothing waits for that end, and the answer says so."""
    project.capture()
    project.mcp.write_text(BAD)
    saved = project.folder / "saved"
    save = f"printf %s {shlex.quote(BAD)} > {shlex.quote(str(project.mcp))}; touch {shlex.quote(str(saved))}"
    project.overrides["restart.settle"] = "50ms"
    outcome = roll_back(project, restart_command=f"read line < {fifo(project)}; {save}")
    assert outcome.status == "restored"
    (note,) = [note for note in outcome.diagnostics if "still runs (pid " in note]
    assert note.endswith(f"inv release.rollback --plan --snapshot {outcome.snapshot_id}")
    fifo(project).write_text("\n")
    await_true(saved.exists, seconds=30)
    assert plan_rollback(project.settings, outcome.snapshot_id).keys("restore") == ["mcp"]


def fifo(project: Project) -> Path:
    """Return a pipe on which a restart command waits for the test."""
    path = project.folder / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return path


@pytest.mark.slow
def test_state_that_a_process_wrote_back_is_found(project: Project, store: Store) -> None:
    """The restart ends the old process after the restore, and it saves: the answer names the asset and the key."""
    outcome = roll_back(project, restart_command=f"{store.stop}; {store.start}")
    assert outcome.status == "failed"
    assert outcome.health_check is not None and outcome.health_check.passed
    assert outcome.diagnostics[0].startswith("mcp: the content is that of before the rollback again.")
    assert "release.restart.stop" in outcome.diagnostics[0]
    assert "inv release.rollback --snapshot v1_snapshot" in outcome.diagnostics[0]
    assert project.mcp.read_text() == BAD
    assert audit_events(project)[-1] == ("rollback.finished", "failed")
    project.overrides["restart.stop"] = store.stop
    assert roll_back(project, "v1_snapshot", restart_command=store.start).status == "restored"
    assert project.mcp.read_text() == GOOD


def test_stop_command_ends_the_service_before_the_safety_copy(project: Project, store: Store) -> None:
    """What the service held in memory is in the safety snapshot, and the new process reads the restored file."""
    project.mcp.write_text("unsaved changes are in memory")
    project.overrides["restart.stop"] = store.stop
    old = store.pid
    states: dict[str, bool] = {}
    outcome = roll_back(
        project, restart_command=store.start, emit=on_steps(lambda step: states.update({step: is_running(old)}))
    )
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.stop_command == store.stop
    assert not states["safety snapshot"]
    assert (safety_folder(project, outcome) / "assets" / "mcp" / "mcp.json").read_text() == BAD
    assert project.mcp.read_text() == GOOD
    assert store.pid != old and is_running(store.pid)
    assert [event for event, _ in audit_events(project)] == ["service.stopped", "rollback.started", "rollback.finished"]


@pytest.mark.slow
def test_bad_memory_behind_a_state_in_place(project: Project, store: Store) -> None:
    """The file is restored and the process still holds the bad state: its restart writes that back; a stop is safe."""
    assert roll_back(project).status == "restored"
    assert project.mcp.read_text() == GOOD
    Path(f"{store.pid_file}.ill").touch()
    outcome = roll_back(project, restart_command=f"{store.stop}; {store.start}")
    assert (outcome.status, outcome.restored_assets) == ("failed", [])
    assert outcome.diagnostics[0].startswith("mcp: the content is that of before the rollback again.")
    assert "is live already" not in " ".join(outcome.diagnostics)

    assert roll_back(project).status == "restored"
    Path(f"{store.pid_file}.ill").touch()
    project.overrides["restart.stop"] = f"echo x >> stops; {store.stop}"
    outcome = roll_back(project, restart_command=store.start)
    assert (outcome.status, outcome.restored_assets) == ("restored", ["mcp"])
    assert project.mcp.read_text() == GOOD
    assert (project.folder / "stops").read_text() == "x\n"


def test_file_that_the_service_rewrote_is_no_failure(project: Project) -> None:
    """It equals neither the state before nor the snapshot: the service wrote it at its start."""
    project.capture()
    project.damage()
    assert roll_back(project, restart_command="echo mine > state/mcp.json; date > state/identity/started").status == (
        "restored"
    )
    assert project.mcp.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("rm state/mcp.json", "mcp"),
        ("printf {} > state/extra.json", "extra"),
        ("rm -r state/identity; cp -a saved state/identity", "identity"),
    ],
    ids=["removed again", "created again", "a folder"],
)
def test_every_way_back_to_the_state_before_is_found(project: Project, command: str, key: str) -> None:
    """A file that was absent, a file that existed, and a folder."""
    project.capture()
    project.damage()
    subprocess.run(["cp", "-a", str(project.identity), str(project.folder / "saved")], check=True)
    outcome = roll_back(project, restart_command=command)
    assert outcome.status == "failed"
    assert outcome.diagnostics[0].startswith(f"{key}: the content is that of before")


STOPS: dict[str, tuple[str, str]] = {
    "fails": ("echo no pid file >&2; exit 3", "exit code 3: no pid file"),
    "is not found": ("no-such-command-here", "command not found"),
    "never ends": ("trap '' TERM; echo $$ > stopping; while :; do sleep 0.1; done", "no result after 300ms"),
    "is killed": ("kill -9 $$", "SIGKILL"),
    "leaves a process": ("sleep 60 & echo $! > stopping; exit 4", "exit code 4"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "reason"), STOPS.values(), ids=STOPS.keys())
def test_stop_command_that_fails_does_not_end_the_rollback(project: Project, command: str, reason: str) -> None:
    """The answer and the audit log say it, its processes are ended, and the state is restored."""
    before = project.content()
    project.capture()
    project.damage()
    project.overrides.update({"restart.stop": command, "restart.stop_timeout": "300ms"})
    outcome = roll_back(project, restart_command="true")
    assert outcome.status == "restored"
    assert reason in outcome.diagnostics[0] and "The service may still run" in outcome.diagnostics[0]
    assert project.content() == before
    assert audit_events(project)[0] == ("service.stopped", "failed")
    (stopped,) = [event for event in project.pipeline.audit.verify().events if event["event"] == "service.stopped"]
    assert reason in stopped["detail"]
    stopping = project.folder / "stopping"
    assert not stopping.exists() or not is_running(int(stopping.read_text()))


def test_stop_command_that_cannot_write_its_log_still_runs(project: Project) -> None:
    """As on a full disk: the log is lost, and the service is stopped."""
    project.capture()
    project.damage()
    project.overrides["restart.stop"] = "touch stopped"
    (project.pipeline.root / "logs").write_text("not a folder")
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert (project.folder / "stopped").exists()


GATE = """
import json, sys
from pathlib import Path
from release_tasks.core.errors import LockHeld
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
folder = Path(sys.argv[1])
try:
    answer = recover(load_settings({"release": json.loads(sys.argv[2])}, folder), wait=0).status
except LockHeld:
    answer = "held"
(folder / "started").write_text(answer)
"""


def stopping(project: Project, *, command: bool = True) -> Project:
    """Return the project with a damaged state, a stop command, and a start command that goes through the gate."""
    project.capture()
    project.damage()
    start = shlex.join([sys.executable, "-c", GATE, str(project.folder), json.dumps(project.raw)])
    project.overrides.update({"restart.stop": "echo x >> stops", "restart.settle": "20s"})
    if command:
        project.overrides["restart.command"] = start
    return project


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restore_database", "rename_into_place", "write_journal"])
def test_service_is_started_again_when_the_rollback_is_undone(project: Project, name: SwapCall) -> None:
    """The start command passes the gate, and the answer says that the service was stopped and runs again."""
    old = stopping(project).content()
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, name, 1, after=False, error=StageFailed("no space."))
        outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "The service was stopped and is started again with" in outcome.diagnostics[0]
    assert (project.folder / "started").read_text() == "clean"
    assert project.content() == old
    assert "started again" in project.pipeline.audit.verify().events[-1]["detail"]


def test_service_without_a_start_command_is_said_to_be_stopped(project: Project) -> None:
    """After a failure, and after a success."""
    stopping(project, command=False)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "rename_into_place", 1, after=False, error=StageFailed("no space."))
        outcome = roll_back(project)
    assert outcome.status == "failed"
    assert (
        "The service is stopped (release.restart.stop), and no restart command is set. Start it."
        in (outcome.diagnostics[0])
    )
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert "The service is stopped" in outcome.diagnostics[0]
    started = time.monotonic()
    outcome = roll_back(project, force=True, health_url="http://127.0.0.1:9/health")
    assert outcome.status == "failed" and time.monotonic() - started < 4  # the deadline of health is 5 seconds


def test_service_is_not_started_on_a_state_that_may_be_mixed(project: Project) -> None:
    """The undo fails too: the answer says that the service is stopped and what to type first."""
    stopping(project)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "rename_into_place", 2, after=False, error=StageFailed("no space."))
        patch.setattr("release_tasks.stages.rollback.swap.Swap.back", fail_at(1, lambda _: None, StageFailed("no.")))
        outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "inv release.recover" in outcome.diagnostics[0] and "The service is stopped" in outcome.diagnostics[0]
    assert not (project.folder / "started").exists()
    assert recover(project.settings).status == "finished"
    assert not (project.folder / "started").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["the stop", "safety", "stage", "swap"])
def test_service_is_started_again_after_a_signal(project: Project, at: str) -> None:
    """Whatever the signal interrupts, the stop command too; during the swap it acts after it."""
    stopping(project)

    def act(step: str) -> None:
        if step.startswith(at):
            os.kill(os.getpid(), signal.SIGTERM)

    if at == "the stop":
        project.overrides["restart.stop"] = f"echo x >> stops; kill -TERM {os.getpid()}; sleep 60"
    with pytest.raises(Interrupted) as caught, interruptible():
        roll_back(project, emit=on_steps(act))
    assert caught.value.exit_code == 143
    assert "is started again" in caught.value.detail
    assert (project.folder / "started").read_text() == "clean"
    assert "is started again" in project.pipeline.audit.verify().events[-1]["detail"]


def test_signal_after_the_start_does_not_start_the_service_twice(project: Project) -> None:
    """The restart command runs and is observed when the signal arrives."""
    stopping(project, command=False)
    project.overrides["restart.command"] = f"echo x >> starts; kill -TERM {os.getpid()}; sleep 3"
    with pytest.raises(Interrupted), interruptible():
        roll_back(project)
    assert (project.folder / "starts").read_text() == "x\n"


def test_recovery_and_plan_neither_stop_nor_start_the_service(project: Project) -> None:
    """A killed rollback leaves the service stopped, and its supervisor starts it after the gate."""
    stopping(project)
    assert any("echo x >> stops" in text and "30s" in text for text in plan_rollback(project.settings).diagnostics)
    assert not (project.folder / "stops").exists()
    crash_in_mid_swap(project, "rename_into_place", 1, after=False)
    assert recover(project.settings).status == "finished"
    assert (project.folder / "stops").read_text() == "x\n"
    assert not (project.folder / "started").exists()
