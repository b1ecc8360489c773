"""Health after a restart is the health of the new process, also while the process before it still answers."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from release_tasks.core.events import Emit, Event, Noted
from tests.support.processes import await_true, is_running
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back

# A service that answers health. After SIGTERM it drains: it goes on answering for a while, and then it ends.
SERVICE = """
import http.server, os, signal, sys, threading, time
folder, name, port, drain, lifetime = sys.argv[1], sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:6])
def end_after(seconds):
    threading.Timer(seconds, os._exit, (0,)).start()
signal.signal(signal.SIGTERM, lambda *_: end_after(drain))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(os.path.join(folder, name + ".requests"), "a") as log:
            log.write("x")
        self.send_response(503 if name == "old" and os.path.exists(os.path.join(folder, "ill")) else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
with open(os.path.join(folder, name + ".pid"), "w") as file:
    file.write(str(os.getpid()) + chr(10))
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
open(os.path.join(folder, name + ".serves"), "w").close()
if lifetime:
    end_after(lifetime)
server.serve_forever()
"""


@frozen
class OldService:
    """A running service, and the commands that a restart command is made of."""

    folder: Path
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/health"

    @property
    def new(self) -> str:
        """Return the command that starts the new process."""
        return _service("new", self.folder, self.port, 0.0, 0.0)

    @property
    def short_lived(self) -> str:
        """Return a command that starts a new process, waits until it answers and ends; soon the process ends too."""
        service = _service("new", self.folder, self.port, 0.0, 0.3)
        return f"{service} & while [ ! -e {self.folder}/new.serves ]; do sleep 0.02; done"

    @property
    def drain(self) -> str:
        """Return a command that asks the old process to end, and waits for its end."""
        # The link of a zombie cannot be read; ``kill -0`` would succeed.
        return f"kill -TERM {self.pid}; while readlink /proc/{self.pid}/exe > /dev/null; do sleep 0.02; done"

    def requests(self, name: str) -> int:
        """Return how many requests the process ``name`` has answered."""
        path = self.folder / f"{name}.requests"
        return path.stat().st_size if path.exists() else 0


def _service(name: str, folder: Path, port: int, drain: float, lifetime: float) -> str:
    script = folder / "service.py"
    script.write_text(SERVICE)
    return shlex.join([sys.executable, str(script), str(folder), name, str(port), str(drain), str(lifetime)])


@pytest.fixture
def old(project: Project, free_port: int) -> Iterator[OldService]:
    """Return a running service that drains for a second, and a snapshot of a state that was damaged afterwards."""
    project.capture()
    project.damage()
    project.overrides.update({"health.deadline": "20s", "restart.settle": "200ms"})
    folder = project.folder / "service"
    folder.mkdir()
    process = subprocess.Popen(shlex.split(_service("old", folder, free_port, 1.0, 0.0)))
    try:
        await_true((folder / "old.serves").exists, seconds=30)
        yield OldService(folder, free_port, process.pid)
    finally:
        process.kill()
        process.wait()
        for path in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text() or 0), signal.SIGKILL)


FAILURES: dict[str, tuple[Callable[[OldService], str], str]] = {
    "drains, and the new process dies": (lambda old: f"{old.drain}; echo no such table >&2; exit 7", "exit code 7"),
    "drains, and is killed": (lambda old: f"{old.drain}; kill -9 $$", "SIGKILL"),
    "drains, and becomes a process that dies": (lambda old: f"{old.drain}; exec sh -c 'exit 7'", "exit code 7"),
    "drains, and starts a process that dies at once": (lambda old: f"{old.drain}; (exit 7) &", "refused"),
    "drains, and starts a process that dies soon": (lambda old: f"{old.drain}; {old.short_lived}", "refused"),
    "ends at once, and the new process dies soon": (lambda old: f"kill -9 {old.pid}; {old.short_lived}", "refused"),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("is_in_place", [False, True], ids=["restored", "in place"])
@pytest.mark.parametrize(("command", "reason"), FAILURES.values(), ids=FAILURES.keys())
def test_healthy_answers_of_the_old_process_do_not_count(
    project: Project, old: OldService, command: Callable[[OldService], str], reason: str, is_in_place: bool
) -> None:
    """The old process answers for a second, more often than health must pass; then no process answers any more."""
    project.overrides.update({"restart.settle": "800ms", "health.deadline": "3s"})
    text = command(old)
    if is_in_place:
        assert roll_back(project).status == "restored"
        (old.folder / "ill").touch()
        text = f"rm {old.folder}/ill; {text}"
    outcome = roll_back(project, health_url=old.url, restart_command=text)
    assert outcome.status == "failed", outcome
    assert reason in " ".join(outcome.diagnostics)
    assert is_in_place == ("is live already" in " ".join(outcome.diagnostics))
    assert outcome.health_check is not None and not outcome.health_check.passed
    assert audit_events(project)[-1] == ("rollback.finished", "failed")


@pytest.mark.slow
def test_restart_command_that_fails_late_fails_the_rollback(project: Project, old: OldService) -> None:
    """The command still ran when health had passed, and its end decides; the state stays restored."""
    outcome = roll_back(project, health_url=old.url, restart_command=f"{old.drain}; echo no such table >&2; exit 7")
    assert outcome.status == "failed"
    assert "exit code 7: no such table" in outcome.diagnostics[0]
    assert "last answer" in outcome.diagnostics[1]
    assert (project.identity / "identity.json").read_text() == '{"id": "one"}'


STARTS: dict[str, Callable[[OldService], str]] = {
    "never ends": lambda old: f"{old.drain}; exec {old.new}",
    "never ends, and the service is its child": lambda old: f"{old.drain}; {old.new}; true",
    "ends when it has started the new process": lambda old: f"{old.drain}; {old.new} &",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS.keys())
def test_answers_of_the_new_process_count(
    project: Project, old: OldService, command: Callable[[OldService], str]
) -> None:
    """The new process is recognised, so the deadline is not waited for and nothing remains in doubt."""
    begins = time.monotonic()
    outcome = roll_back(project, health_url=old.url, restart_command=command(old))
    assert outcome.status == "restored", outcome.diagnostics
    assert not re.search("still runs|was started before", " ".join(outcome.diagnostics))
    assert time.monotonic() - begins < 15
    assert old.requests("new") >= 3 and not is_running(old.pid)


@pytest.mark.slow
def test_old_process_that_stays_is_named(project: Project, old: OldService) -> None:
    """The command ended, or still runs, and the old process answers: perhaps a reload or a proxy, so it is named."""
    project.overrides["health.deadline"] = "1s"
    notes: list[str] = []
    for command, text in (
        ("exec sleep 3", rf"still runs \(pid {{command}}\); the healthy answers may come from .*pid {old.pid}"),
        (f"{old.new} &", f"pid {old.pid}.* was started before the restart command"),
    ):
        outcome = roll_back(
            project, health_url=old.url, restart_command=f"echo $$ > pid; {command}", force=True, emit=noted_in(notes)
        )
        assert outcome.status == "restored"
        assert re.search(text.format(command=(project.folder / "pid").read_text().strip()), outcome.diagnostics[0])
    assert len(notes) == 1 and "checked until the command ends" in notes[0]


def noted_in(notes: list[str]) -> Emit:
    """Return a consumer that collects the messages for the operator."""

    def emit(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.sentence)

    return emit
