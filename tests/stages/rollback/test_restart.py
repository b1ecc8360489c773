"""The restart hook may run for ever, end at once, fork, flood or not exist; health decides."""

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

from tests.support.health import Health
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, rollback_state


@pytest.fixture
def pids(project: Project) -> Iterator[Path]:
    """A folder into which restart commands write their pid; whoever is named there is ended afterwards."""
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


def prepared(project: Project, health: Health | None = None) -> Project:
    project.capture()
    project.damage()
    if health is not None:
        project.overrides["health.url"] = health.url
    return project


def test_a_command_that_never_returns_does_not_hang_it(project: Project, health: Health, pids: Path) -> None:
    """Like ``npm run start``: it runs on, in a session of its own, and health decides."""
    prepared(project, health)
    began = time.monotonic()
    outcome = roll_back(project, restart_command=f"echo $$ > {pids}/one; exec sleep 1000")
    assert time.monotonic() - began < 15
    assert outcome.status == "restored", outcome.diagnostics
    assert is_alive(pids / "one")
    assert os.getsid(int((pids / "one").read_text())) != os.getsid(0)


def test_a_command_that_forks_does_not_hang_it(project: Project, health: Health, pids: Path) -> None:
    """``cmd &`` returns at once with 0 and leaves its child."""
    prepared(project, health)
    outcome = roll_back(project, restart_command=f"sleep 1000 & echo $! > {pids}/one")
    assert outcome.status == "restored", outcome.diagnostics
    assert is_alive(pids / "one")


def test_what_the_command_leaves_running_does_not_hold_the_lock(project: Project, pids: Path) -> None:
    """No descriptor of ours lives on in it."""
    prepared(project)
    roll_back(project, restart_command=f"echo $$ > {pids}/one; exec sleep 1000")
    pid = int((pids / "one").read_text())
    names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert {Path(name).name for name in names} == {"null", "restart.log"}
    assert roll_back(project, force=True).status == "restored"


def test_a_command_that_fails_at_once_is_failed_and_says_the_way_back(project: Project, health: Health) -> None:
    """Exit code, the end of its output, its log, the safety snapshot; the restored state is kept; the way works."""
    before = project.content()
    prepared(project, health)
    bad = project.content()
    outcome = roll_back(project, restart_command="echo no such port >&2; exit 3")
    assert outcome.status == "failed"
    told = " ".join(outcome.diagnostics)
    assert "exit code 3" in told and "no such port" in told and "restart.log" in told
    assert f"inv release.rollback --snapshot {outcome.safety_snapshot_id}" in told
    assert project.content() == before
    assert rollback_state(project).status == "failed"
    assert audit_events(project)[-1] == ("rollback.finished", "failed")
    command = next(s for s in outcome.diagnostics if "--snapshot" in s).split("inv release.rollback ")[1]
    back = roll_back(project, shlex.split(command)[1])
    assert back.status == "restored"
    assert project.content() == bad


def test_a_command_that_is_not_found_is_failed_in_words(project: Project) -> None:
    """127 is said as what it is."""
    prepared(project)
    outcome = roll_back(project, restart_command="no-such-command-here --start")
    assert outcome.status == "failed"
    assert "not found" in outcome.diagnostics[0]


def test_a_command_that_a_signal_ends_at_once_is_failed(project: Project) -> None:
    """No exit code of 0 came from it."""
    prepared(project)
    assert roll_back(project, restart_command="kill -9 $$").status == "failed"


def test_a_command_that_floods_its_output_does_not_hang_or_swell_it(
    project: Project, health: Health, pids: Path
) -> None:
    """Its output goes to a file, never through us."""
    import resource

    prepared(project, health)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = f"{sys.executable} -c \"import sys; sys.stdout.write('x' * (64 << 20))\""
    outcome = roll_back(project, restart_command=f"echo $$ > {pids}/one; {flood}; exec sleep 1000")
    assert outcome.status == "restored", outcome.diagnostics
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


def test_a_flood_that_fails_is_explained_by_its_end(project: Project) -> None:
    """The sentence stays short however much was printed."""
    prepared(project)
    project.overrides["restart.settle"] = "20s"
    flood = f"{sys.executable} -c \"import sys; sys.stdout.write('x' * (16 << 20)); sys.exit('the last words')\""
    outcome = roll_back(project, restart_command=flood)
    assert outcome.status == "failed"
    assert "the last words" in outcome.diagnostics[0]
    assert len(outcome.diagnostics[0]) < 6000


def test_the_command_runs_at_the_projects_root_without_input(project: Project) -> None:
    """Wherever ``inv`` was typed; stdin is empty."""
    prepared(project)
    project.overrides["restart.settle"] = "5s"
    assert roll_back(project, restart_command="pwd > where; cat > read").status == "restored"
    assert (project.folder / "where").read_text().strip() == str(project.folder)
    assert (project.folder / "read").read_text() == ""


def test_the_configured_command_is_used_and_an_explicit_one_wins(project: Project) -> None:
    """restart.command is the default of --restart-command."""
    prepared(project)
    project.overrides["restart.settle"] = "5s"
    project.overrides["restart.command"] = "touch configured"
    assert roll_back(project).restart_command == "touch configured"
    assert (project.folder / "configured").exists()
    assert roll_back(project, force=True, restart_command="touch typed").restart_command == "touch typed"
    assert (project.folder / "typed").exists()


def test_health_that_fails_is_failed_and_keeps_what_was_restored(project: Project, health: Health) -> None:
    """The diagnostics name status, URL, safety snapshot and the way back; the way works."""
    before = project.content()
    prepared(project, health)
    bad = project.content()
    project.overrides["health.deadline"] = "300ms"
    health.status = 500
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert outcome.health_check is not None and not outcome.health_check.passed
    told = " ".join(outcome.diagnostics)
    assert "500" in told and health.url in told
    assert f"inv release.rollback --snapshot {outcome.safety_snapshot_id}" in told
    assert project.content() == before
    health.status = 200
    project.overrides["health.deadline"] = "20s"
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad


def test_how_health_was_after_it_is_in_the_audit_log(project: Project, health: Health) -> None:
    """The event of its end holds each attempt, for whoever reads the log later; null where nobody was asked."""
    assert roll_back(prepared(project), force=True).status == "restored"
    project.overrides["health.url"] = health.url
    outcome = roll_back(project, force=True)
    without, told = (
        event["health"] for event in project.pipeline.audit.verify().events if event["event"] == "rollback.finished"
    )
    assert without is None
    assert outcome.health_check is not None
    assert (told["status"], told["attempts"]) == ("ok", len(outcome.health_check.history))
    assert [a["at"] for a in told["history"]] == [a.at for a in outcome.health_check.history]


def test_a_service_that_needs_a_while_is_waited_for(project: Project, pids: Path, free_port: int) -> None:
    """Refused connections are a start, until the deadline; then several healthy answers in a row are asked for."""
    prepared(project)
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


def test_an_endpoint_that_nobody_serves_fails_at_the_deadline(project: Project, free_port: int) -> None:
    """Not before, and not for ever."""
    prepared(project)
    project.overrides["health.deadline"] = "500ms"
    began = time.monotonic()
    outcome = roll_back(project, health_url=f"http://127.0.0.1:{free_port}/health")
    assert outcome.status == "failed"
    assert 0.4 < time.monotonic() - began < 15
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port))
