"""The restart command may run for ever, exit early, fork, print without end or not exist; the health check decides."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks.core.process import masking
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.health import Health
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, rollback_state


@pytest.fixture
def pids(project: Project) -> Iterator[Path]:
    """Return a folder into which restart commands write their pid; those processes are killed after the test."""
    folder = project.folder / "pids"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        pid = int(path.read_text() or 0)
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def is_alive(path: Path) -> bool:
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def captured_and_damaged(project: Project, health: Health | None = None) -> Project:
    """Capture v1, change every asset, and set the health URL."""
    project.capture()
    project.damage()
    if health is not None:
        project.overrides["health.url"] = health.url
    return project


@pytest.mark.slow
def test_command_that_never_returns_keeps_running_in_its_own_session(
    project: Project, health: Health, pids: Path
) -> None:
    """As with ``npm run start``, the rollback ends and the health check decides."""
    captured_and_damaged(project, health)
    start = time.monotonic()
    outcome = roll_back(project, restart_command=f"echo $$ > {pids}/one; exec sleep 1000")
    assert time.monotonic() - start < 15
    assert outcome.status == "restored", outcome.diagnostics
    assert is_alive(pids / "one")
    assert os.getsid(int((pids / "one").read_text())) != os.getsid(0)


@pytest.mark.slow
def test_command_that_forks_does_not_block_the_rollback(project: Project, health: Health, pids: Path) -> None:
    """``cmd &`` exits immediately with 0, and its child keeps running."""
    captured_and_damaged(project, health)
    outcome = roll_back(project, restart_command=f"sleep 1000 & echo $! > {pids}/one")
    assert outcome.status == "restored", outcome.diagnostics
    assert is_alive(pids / "one")


def test_restarted_service_does_not_inherit_the_lock(project: Project, pids: Path) -> None:
    """The process that the command leaves running has no file descriptor of the rollback."""
    captured_and_damaged(project)
    roll_back(project, restart_command=f"echo $$ > {pids}/one; exec sleep 1000")
    pid = int((pids / "one").read_text())
    names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert {Path(name).name for name in names} == {"null", "restart.log"}
    assert roll_back(project, force=True).status == "restored"


def test_failed_command_fails_the_rollback_and_names_the_safety_snapshot(project: Project, health: Health) -> None:
    """The message has exit code, last output, log and the rollback command, which works; the restored state stays."""
    before = project.content()
    captured_and_damaged(project, health)
    damaged = project.content()
    outcome = roll_back(project, restart_command="echo no such port >&2; exit 3")
    assert outcome.status == "failed"
    messages = " ".join(outcome.diagnostics)
    assert "exit code 3" in messages and "no such port" in messages and "restart.log" in messages
    assert f"inv release.rollback --snapshot {outcome.safety_snapshot_id}" in messages
    assert project.content() == before
    assert rollback_state(project).status == "failed"
    assert audit_events(project)[-1] == ("rollback.finished", "failed")
    command = next(message for message in outcome.diagnostics if "--snapshot" in message).split(
        "inv release.rollback "
    )[1]
    back = roll_back(project, shlex.split(command)[1])
    assert back.status == "restored"
    assert project.content() == damaged


@pytest.mark.parametrize(
    "act",
    ["os.ftruncate(1, 1 << 43)", "os.write(1, b'x' * 4096); os.ftruncate(1, 0)", "os.unlink(log); os.mkfifo(log)"],
    ids=["larger than a disk", "cut", "a pipe"],
)
def test_log_that_the_command_changes_delays_no_result(project: Project, act: str) -> None:
    """The command has the log as its standard output, and the service that it starts is another user."""
    captured_and_damaged(project)
    command = shlex.join(
        [sys.executable, "-I", "-S", "-c", f"import os; log = os.readlink('/proc/self/fd/1'); {act}; os._exit(3)"]
    )
    start = time.monotonic()
    outcome = roll_back(project, restart_command=command)
    assert time.monotonic() - start < 10
    assert outcome.status == "failed"
    assert "ended with exit code 3. Its output is in" in outcome.diagnostics[0]


@pytest.mark.slow
def test_secrets_of_a_flood_are_masked_for_a_limited_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is masked once is not read again, and the rest stays; the end of the output is shown without secrets."""
    monkeypatch.setattr(masking, "_SECONDS", 0.1)  # instead of 3 s
    captured_and_damaged(project)
    line = "password=hunter2-hunter2 " + "\\" * 1000
    script = f"import sys; sys.stdout.write({line!r} + chr(10)); sys.stdout.flush()"
    script = f"{script}; [sys.stdout.write({line!r} + chr(10)) for _ in range(10_000)]; sys.exit(3)"
    start = time.monotonic()
    outcome = roll_back(project, restart_command=shlex.join([sys.executable, "-I", "-S", "-c", script]))
    assert time.monotonic() - start < 10
    assert outcome.status == "failed" and "hunter2" not in " ".join(outcome.diagnostics)
    (log,) = (project.folder).rglob("restart.log")
    with log.open("rb") as file:
        assert b"hunter2" not in file.read(64 << 10)


def test_command_that_is_not_found_fails_with_a_message(project: Project) -> None:
    """Exit code 127 is explained."""
    captured_and_damaged(project)
    outcome = roll_back(project, restart_command="true && no-such-command-here --start")
    assert outcome.status == "failed"
    assert "not found" in outcome.diagnostics[0]


@pytest.mark.parametrize("command", ["no-such-command-here --start", "./strat.sh", "cd nowhere && ./start.sh"])
def test_command_that_cannot_exist_is_refused_before_the_swap(project: Project, command: str) -> None:
    """Nothing is stopped or changed, the plan foresees it, and the message has the command to type."""
    captured_and_damaged(project)
    damaged = project.content()
    project.overrides["restart.command"] = command
    outcome = roll_back(project)
    assert outcome.status == "failed" and outcome.safety_snapshot_id is None
    assert outcome.diagnostics[0].startswith("release.restart.command: ")
    assert "Nothing live was changed." in outcome.diagnostics[0] and "--restart-command CMD" in outcome.diagnostics[0]
    assert project.content() == damaged
    plan = plan_rollback(project.settings)
    assert any("would fail and change nothing. release.restart.command: " in note for note in plan.diagnostics)


def test_command_that_the_rollback_brings_back_is_not_refused(project: Project, health: Health) -> None:
    """The start script is in an asset that the bad release removed."""
    script = project.identity / "start.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    captured_and_damaged(project, health)
    script.unlink(missing_ok=True)
    assert roll_back(project, restart_command=os.fspath(script)).status == "restored"


def test_a_noop_does_not_need_the_restart_command(project: Project, health: Health) -> None:
    """The state is in place and the service healthy: nothing is restarted."""
    captured_and_damaged(project, health)
    assert roll_back(project).status == "restored"
    assert roll_back(project, restart_command="./strat.sh").status == "noop"


def test_command_killed_by_a_signal_fails_the_rollback(project: Project) -> None:
    """A command that a signal ended has no exit code 0."""
    captured_and_damaged(project)
    assert roll_back(project, restart_command="kill -9 $$").status == "failed"


@pytest.mark.slow
def test_output_of_64_mib_uses_less_than_40_mib_of_memory(project: Project, health: Health, pids: Path) -> None:
    """The command writes its output directly to a file."""
    import resource

    captured_and_damaged(project, health)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = f"{sys.executable} -c \"import sys; sys.stdout.write('x' * (64 << 20))\""
    outcome = roll_back(project, restart_command=f"echo $$ > {pids}/one; {flood}; exec sleep 1000")
    assert outcome.status == "restored", outcome.diagnostics
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


@pytest.mark.slow
def test_message_quotes_only_the_end_of_a_long_output(project: Project) -> None:
    """The message stays short, however much the command printed."""
    captured_and_damaged(project)
    project.overrides["restart.settle"] = "20s"
    flood = f"{sys.executable} -c \"import sys; sys.stdout.write('x' * (16 << 20)); sys.exit('the last line')\""
    outcome = roll_back(project, restart_command=flood)
    assert outcome.status == "failed"
    assert "the last line" in outcome.diagnostics[0]
    assert len(outcome.diagnostics[0]) < 6000


def test_command_runs_in_the_project_root_with_empty_stdin(project: Project) -> None:
    """The working folder does not depend on where ``inv`` was typed."""
    captured_and_damaged(project)
    project.overrides["restart.settle"] = "5s"
    assert roll_back(project, restart_command="pwd > where; cat > read").status == "restored"
    assert (project.folder / "where").read_text().strip() == str(project.folder)
    assert (project.folder / "read").read_text() == ""


def test_typed_command_overrides_the_configured_one(project: Project) -> None:
    """restart.command is the default of --restart-command."""
    captured_and_damaged(project)
    project.overrides["restart.settle"] = "5s"
    project.overrides["restart.command"] = "touch configured"
    assert roll_back(project).restart_command == "touch configured"
    assert (project.folder / "configured").exists()
    assert roll_back(project, force=True, restart_command="touch typed").restart_command == "touch typed"
    assert (project.folder / "typed").exists()


def test_failed_health_check_fails_the_rollback_and_keeps_the_restored_state(project: Project, health: Health) -> None:
    """The diagnostics name status, URL, safety snapshot and the rollback command, which works."""
    before = project.content()
    captured_and_damaged(project, health)
    damaged = project.content()
    project.overrides["health.deadline"] = "300ms"
    health.status = 500
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert outcome.health_check is not None and not outcome.health_check.passed
    messages = " ".join(outcome.diagnostics)
    assert "500" in messages and health.url in messages
    assert f"inv release.rollback --snapshot {outcome.safety_snapshot_id}" in messages
    assert project.content() == before
    health.status = 200
    project.overrides["health.deadline"] = "20s"
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == damaged


def test_health_attempts_are_recorded_in_the_audit_event(project: Project, health: Health) -> None:
    """The last event contains each attempt, and null where health is not configured."""
    assert roll_back(captured_and_damaged(project), force=True).status == "restored"
    project.overrides["health.url"] = health.url
    outcome = roll_back(project, force=True)
    without, health_event = (
        event["health"] for event in project.pipeline.audit.verify().events if event["event"] == "rollback.finished"
    )
    assert without is None
    assert outcome.health_check is not None
    assert (health_event["status"], health_event["attempts"]) == ("ok", len(outcome.health_check.history))
    assert [a["at"] for a in health_event["history"]] == [a.at for a in outcome.health_check.history]


@pytest.mark.slow
def test_rollback_waits_for_a_service_that_starts_slowly(project: Project, pids: Path, free_port: int) -> None:
    """Refused connections count as starting until the deadline; then several healthy answers in a row are required."""
    captured_and_damaged(project)
    server = (
        "import http.server, os, time, sys\n"
        f"open({str(pids / 'one')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(0.7)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers()\n"
        "        self.wfile.write(b'ok')\n"
        f"http.server.HTTPServer(('127.0.0.1', {free_port}), H).serve_forever()\n"
    )
    (project.folder / "server.py").write_text(server)
    project.overrides["health.deadline"] = "20s"
    outcome = roll_back(
        project,
        health_url=f"http://127.0.0.1:{free_port}/health",
        restart_command=f"exec {sys.executable} server.py",
    )
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.health_check is not None and outcome.health_check.attempts >= 3
    assert is_alive(pids / "one")


def test_unreachable_endpoint_fails_at_the_deadline(project: Project, free_port: int) -> None:
    """Neither before the deadline nor much later."""
    captured_and_damaged(project)
    project.overrides["health.deadline"] = "500ms"
    start = time.monotonic()
    outcome = roll_back(project, health_url=f"http://127.0.0.1:{free_port}/health")
    assert outcome.status == "failed"
    assert 0.4 < time.monotonic() - start < 15
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port))
