"""A service started on the restored state is judged by its health, and all its processes end with the drill."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.endpoint import Question, RequestConfig
from release_tasks.core.records import HealthReport
from release_tasks.service import wait
from release_tasks.stages.drill import boot as booting
from release_tasks.stages.drill import engine
from release_tasks.stages.drill.boot import Service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.drill.outcome import BootOutcome, DrillOutcome
from release_tasks.stages.drill.scratch import processes_of
from tests.support.processes import is_running
from tests.support.project import Project

# Answers health from the restored database, and writes its pid and its environment to a file.
SERVICE = """
import http.server, json, os, signal, sqlite3, sys
mode = sys.argv[1]
note = {key: value for key, value in os.environ.items() if key.startswith("RELEASE_TASKS_DRILL")}
note.update(pid=os.getpid(), cwd=os.getcwd())
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import subprocess
    sleeper = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    note["children"] = [
        subprocess.Popen(sleeper).pid,
        subprocess.Popen(sleeper, start_new_session=True).pid,
    ]
if mode == "daemon" and os.fork():
    os._exit(0)
if mode == "trespasser":
    held = open(sys.argv[3], "rb")
with open(sys.argv[2], "a") as file:
    file.write(json.dumps(note) + "\\n")
if mode == "dies":
    print("no such table: accounts", flush=True)
    sys.exit(3)
if mode == "leaves":
    sys.exit(0)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        database = sqlite3.connect(os.environ["RELEASE_TASKS_DRILL_ASSET_DATABASE"])
        rows = database.execute("SELECT count(*) FROM accounts").fetchone()[0]
        status = 503 if mode == "ill" else 200
        body = json.dumps({"status": "ok" if rows == 50 else "failed"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if mode == "floods":
            print("x" * 100_000, flush=True)
    def log_message(self, *_):
        pass
port = int(os.environ["RELEASE_TASKS_DRILL_PORT"])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Booted:
    """A drill of a project's latest snapshot that starts the service above."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.notes = folder / "notes"
        self.script = folder / "service.py"
        self.script.write_text(SERVICE)
        project.capture()

    def run(self, mode: str, timeout: float = 30.0) -> DrillOutcome:
        words = [sys.executable, str(self.script), mode, str(self.notes), str(self.project.database)]
        service = Service(
            shown=mode,
            arguments=lambda settings, port: words,
            questions=[Question(url="http://127.0.0.1:{port}/health", request=RequestConfig(), expect=None)],
            timeout=timeout,
            environment=os.environ,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "service_of", lambda settings: service)
            return run_drill(self.project.settings, boot=True)

    def reported(self) -> dict[str, Any]:
        """Return what the service wrote; none of its processes runs any more."""
        import json

        note: dict[str, Any] = json.loads(self.notes.read_text())
        assert not any(is_running(pid) for pid in [note["pid"], *note.get("children", [])])
        assert processes_of(Path(note["RELEASE_TASKS_DRILL_ROOT"])).search() == set()
        assert not Path(note["RELEASE_TASKS_DRILL_ROOT"]).exists()
        return note


@pytest.fixture
def booted(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    return Booted(project, tmp_path_factory.mktemp("service"))


def result_of(outcome: DrillOutcome) -> BootOutcome:
    assert outcome.boot is not None
    return outcome.boot


def test_a_service_becomes_healthy_on_the_restored_state(booted: Booted, live_tree: Callable[..., Any]) -> None:
    """The service gets its paths, reads the restored rows, and has ended when the drill ends."""
    before = live_tree(booted.project)
    outcome = booted.run("well")
    boot = result_of(outcome)
    assert (outcome.status, boot.passed, boot.output_tail) == ("passed", True, [])
    note = booted.reported()
    root = note["RELEASE_TASKS_DRILL_ROOT"]
    assert note["cwd"] == root
    assert note["RELEASE_TASKS_DRILL_ASSET_DATABASE"] == f"{root}/state/app.db"
    assert note["RELEASE_TASKS_DRILL_ASSET_EXTRA"] == f"{root}/state/extra.json"
    assert boot.url == f"http://127.0.0.1:{note['RELEASE_TASKS_DRILL_PORT']}/health"
    assert live_tree(booted.project) == before


@pytest.mark.slow
@pytest.mark.parametrize("has_endpoint", [True, False])
def test_the_gates_are_asked_of_the_started_service(booted: Booted, has_endpoint: bool) -> None:
    """A gate of the service is asked at the port of the drill, and one of another service is named."""
    live = "http://127.0.0.1:9"
    booted.project.overrides["health"] = {"url": f"{live}/health", "also": ["api", "other"]} if has_endpoint else {}
    booted.project.overrides["drill.command"] = f"exec {sys.executable} {booted.script} well {booted.notes}"
    booted.project.overrides["gates.api"] = {"http": f"{live}/api?x=1", "expect": {"json": "status", "equals": "up"}}
    booted.project.overrides["gates.other"] = {"http": "http://127.0.0.1:10/"}
    booted.project.overrides["drill.timeout"] = "2s"
    outcome = run_drill(booted.project.settings, boot=True)
    port = booted.reported()["RELEASE_TASKS_DRILL_PORT"]
    boot = result_of(outcome)
    assert not boot.passed and 'gate api: HTTP 200, but status is "ok", expected "up"' in boot.detail
    assert boot.url == f"http://127.0.0.1:{port}/{'health' if has_endpoint else 'api?x=1'}"
    assert any(line.startswith("Gate other was not asked of the started service") for line in outcome.diagnostics)
    booted.project.overrides["gates.api"]["expect"]["equals"] = "ok"
    booted.notes.unlink()
    assert result_of(run_drill(booted.project.settings, boot=True)).passed


def test_a_daemonized_service_is_judged_and_ended(booted: Booted) -> None:
    """The command ends with 0 and its child serves: healthy, and the child is ended."""
    outcome = booted.run("daemon")
    assert outcome.status == "passed", outcome
    booted.reported()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("ill", "it did not become healthy: not healthy within 1s"),
        ("dies", "it ended with exit code 3"),
        ("leaves", "it ended with exit code 0 and left no process running"),
        ("trespasser", "it opened the live path"),
    ],
)
def test_a_service_that_does_not_start_fails_the_drill(booted: Booted, mode: str, message: str) -> None:
    """The snapshot was restored, and it still does not count as restore-tested."""
    outcome = booted.run(mode, timeout=1.0)
    boot = result_of(outcome)
    assert (outcome.status, boot.passed) == ("failed", False)
    assert message in boot.detail
    assert message in outcome.diagnostics[0]
    booted.reported()
    if mode == "dies":
        assert boot.output_tail == ["no such table: accounts"]
    (event,) = booted.project.pipeline.drill_audit.verify().events
    assert (event["event"], event["booted"], event["checks"]["database"]) == ("drill.failed", False, "restored")


def test_processes_that_ignore_sigterm_are_killed(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM is ignored, one child is in the group, another in its own session: all end."""
    monkeypatch.setattr(booting, "GRACE_SECONDS", 0.2)
    outcome = booted.run("stubborn")
    assert outcome.status == "passed", outcome
    assert len(booted.reported()["children"]) == 2


def test_endless_output_ends_the_boot(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless output would fill the disk of the live service."""
    monkeypatch.setattr(booting, "MAX_OUTPUT_BYTES", 50_000)
    monkeypatch.setattr(booting, "poll_health", _with_three_passes(wait.poll_health))
    assert "it printed more than" in result_of(booted.run("floods")).detail
    booted.reported()


def _with_three_passes(ask: Callable[..., HealthReport]) -> Callable[..., HealthReport]:
    return lambda health, *, passes, **options: ask(health, passes=3, **options)


def test_a_command_that_is_not_there_is_a_failed_boot(booted: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is a message, not an exception."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "it cannot be started: No such file or directory" in result_of(booted.run("well")).detail


def test_nothing_is_started_after_a_failed_restore(booted: Booted) -> None:
    """A damaged snapshot is not booted."""
    folder = booted.project.pipeline.catalogue.path("v1_snapshot")
    (folder / "assets" / "mcp" / "mcp.json").write_text("{}")
    outcome = booted.run("well")
    assert (outcome.status, outcome.boot, booted.notes.exists()) == ("failed", None, False)
