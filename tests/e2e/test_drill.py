"""``inv release.drill`` at the command line: exit codes, documents, signals, kills, and started services."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.store import MessageStore
from tests.support.invoke_project import InvokeProject
from tests.support.processes import await_file, await_true, is_running

pytestmark = pytest.mark.slow

SLOW_STEPS = ("rollback: recover", "rollback: safety snapshot", "rollback: swap", "compare", "integrity_check")
SERVICE = """
import http.server, json, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
port = int(os.environ["RELEASE_TASKS_DRILL_PORT"])
with open(sys.argv[1], "w") as file:
    file.write(json.dumps([os.getpid(), child.pid, os.environ["RELEASE_TASKS_DRILL_ROOT"]]) + "\\n")
if sys.argv[2] == "silent":
    signal.pause()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def left(scratch: InvokeProject) -> list[str]:
    drills = scratch.root / "pipeline" / "drills"
    return os.listdir(drills) if drills.exists() else []


@pytest.fixture
def prepared(scratch: InvokeProject) -> Any:
    """Return a project with one release whose state has changed since."""
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    return scratch


@pytest.fixture
def serving(prepared: InvokeProject, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that configures the service above and returns the file that the service writes."""

    def configure(mode: str) -> Path:
        script, note = tmp_path / "service.py", tmp_path / "note"
        script.write_text(SERVICE)
        command = f"exec {sys.executable} {script} {note} {mode}"
        prepared.configuration["release"]["drill"] = {"command": command, "timeout": "60s"}
        return note

    return configure


def note_of(path: Path) -> tuple[list[int], Path]:
    await_file(path)
    service, child, root = json.loads(path.read_text())
    return [service, child], Path(root)


def test_drill_as_text_and_as_a_document(versioned: InvokeProject) -> None:
    """0 and a table, 1 and a message, 2 for an unknown id; status shows which snapshots are restore-tested."""
    prepared = versioned
    assert prepared.run("release.prepare", "--release-id", "v1").returncode == 0
    (prepared.root / "state.txt").write_text("two")
    (before,) = prepared.document("release.status")["snapshots"]
    assert (before["proof"], before["provedAt"]) == (None, None)
    done = prepared.run("release.drill")
    assert (done.returncode, "PASSED" in done.stdout, "state  file  restored" in done.stdout) == (0, True, True)
    document = prepared.document("release.drill", "--snapshot", before["snapshotId"])
    assert set(document) == {
        *("status", "snapshotId", "digest", "assets", "databases", "boot", "durationMs", "diagnostics")
    }
    assert (document["status"], document["digest"]) == ("passed", before["digest"])
    (after,) = prepared.document("release.status")["snapshots"]
    assert after["provedAt"] == after["proof"]["at"]
    assert after["provedAt"] in prepared.run("release.status").stdout
    assert (prepared.root / "state.txt").read_text() == "two"
    assert left(prepared) == []
    assert prepared.document("release.drill", "--snapshot", "nope", code=2)["status"] == "error"
    stored = next((prepared.root / "pipeline").rglob("snapshots/*/assets/state/state.txt"))
    stored.write_text("six")
    document = prepared.document("release.drill", code=1)
    assert (document["status"], "was altered" in document["diagnostics"][0]) == ("failed", True)
    assert "FAILED" in prepared.run("release.status").stdout.split("RESTORE-TESTED")[1]


def test_dry_shows_the_steps_and_changes_nothing(prepared: InvokeProject) -> None:
    """No folder and no log is created."""
    before = prepared.tree()
    done = prepared.run("--dry", "release.drill")
    assert (done.returncode, "Would restore v1_snapshot_" in done.stdout) == (0, True)
    assert prepared.document("--dry", "release.drill")["status"] == "dry"
    assert prepared.tree() == before


def test_useless_flags_are_refused(prepared: InvokeProject) -> None:
    """Exit 2, and the message names the key to configure."""
    done = prepared.run("release.drill", "--boot")
    assert (done.returncode, "release.drill.command" in done.stderr) == (2, True)
    done = prepared.run("release.drill", "--scratch", "nowhere")
    assert (done.returncode, "is not a directory" in done.stderr) == (2, True)
    prepared.configuration["release"]["drill"] = {"command": "true", "health": "http://127.0.0.1:3100/health"}
    done = prepared.run("release.drill", "--boot")
    assert (done.returncode, "release.drill" in done.stderr, "{port}" in done.stderr) == (2, True, True)


def test_boot_of_a_service_that_ignores_sigterm(prepared: InvokeProject, serving: Callable[[str], Path]) -> None:
    """It is healthy; it and its child are killed after ten seconds."""
    note = serving("well")
    document = prepared.document("release.drill", "--boot")
    assert (document["status"], document["boot"]["passed"]) == ("passed", True)
    assert document["boot"]["durationMs"] >= 10_000
    pids, root = note_of(note)
    assert not any(is_running(pid) for pid in pids)
    assert not root.exists()
    (snapshot,) = prepared.document("release.status")["snapshots"]
    assert snapshot["proof"]["booted"] is True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_boot_leaves_nothing(
    prepared: InvokeProject, serving: Callable[[str], Path], number: signal.Signals, code: int
) -> None:
    """The service never answers and ignores SIGTERM: the command ends within seconds and leaves nothing."""
    note = serving("silent")
    process = prepared.start("release.drill", "--boot")
    pids, root = note_of(note)
    assert all(is_running(pid) for pid in pids)
    process.send_signal(number)
    process.communicate(timeout=9)
    assert process.returncode == code
    assert not any(is_running(pid) for pid in pids)
    assert not root.exists()
    assert left(prepared) == []
    assert not (prepared.root / "pipeline" / "drill-audit.log").exists()


def test_the_next_drill_cleans_up_after_a_kill(prepared: InvokeProject, serving: Callable[[str], Path]) -> None:
    """After kill -9 during the boot, folder and service stay until the next drill, which then passes."""
    note = serving("silent")
    process = prepared.start("release.drill", "--boot")
    pids, root = note_of(note)
    process.kill()
    process.communicate(timeout=9)
    assert root.exists() and all(is_running(pid) for pid in pids)
    assert prepared.document("release.drill")["status"] == "passed"
    assert not any(is_running(pid) for pid in pids)
    assert left(prepared) == []
    assert prepared.document("release.rollback", "--force")["status"] == "restored"


@pytest.mark.parametrize("step", ["copy", *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW_STEPS)])
def test_a_kill_at_any_step_is_cleaned_up(prepared: InvokeProject, step: str) -> None:
    """After kill -9 live state is untouched, no run is blocked, and the next drill passes and cleans up."""
    prepared.write()
    before = {path: state for path, state in prepared.tree().items() if not path.startswith("pipeline/drills")}
    process = prepared.start("release.drill")
    assert process.stderr is not None
    assert any(line.strip() == f"> {step}" for line in process.stderr)
    process.kill()
    process.communicate(timeout=9)
    after = {path: state for path, state in prepared.tree().items() if not path.startswith("pipeline/drills")}
    after.pop("pipeline/drill-audit.log", None)  # the drill may have ended before the kill
    assert after == before
    assert prepared.document("release.recover")["status"] == "clean"
    assert prepared.document("release.drill")["status"] == "passed"
    assert left(prepared) == []


def test_inv_inside_a_drill_refuses_the_live_project(prepared: InvokeProject) -> None:
    """The scratch folder is below the live project, where ``inv`` would find the live tasks.py."""
    command = f"{sys.executable} -m invoke release.rollback"
    prepared.configuration["release"]["drill"] = {"command": command, "timeout": "30s"}
    document = prepared.document("release.drill", "--boot", code=1)
    assert "exit code 2" in document["boot"]["detail"]
    assert "is live" in " ".join(document["boot"]["outputTail"])
    assert (prepared.root / "state.txt").read_text() == "two"


class Sink:
    """The target of a gateway's deliveries; it counts the requests."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def gateway(scratch: InvokeProject, sink: Sink) -> GatewayPaths:
    """Return a gateway's folder with three queued messages and a delivery URL, released as v1."""
    home = GatewayPaths(scratch.root / "gw")
    home.initialise()
    settings = json.loads(home.settings.read_text())
    home.settings.write_text(json.dumps({**settings, "delivery": {"url": sink.url}}))
    store = MessageStore(home.database)
    for number in range(3):
        store.add_message("email", "someone", f"message {number}")
    store.close()
    scratch.configuration["gateway"] = {"root": "gw"}
    scratch.configuration["release"]["assets"] = {
        "database": {"sqlite": "gw/gateway.db"},
        "identity": {"directory": "gw/identity"},
        "mcp": {"file": "gw/mcp-servers.json"},
        "settings": {"file": "gw/gateway.json"},
    }
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    return home


def drill_processes() -> set[str]:
    """Return the command lines of all processes of a drill's service."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if b"RELEASE_TASKS_DRILL_PORT=" in (folder / "environ").read_bytes():
                    found.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_booted_gateway_delivers_nothing(scratch: InvokeProject, gateway: GatewayPaths, sink: Sink) -> None:
    """The snapshot has queued messages: the gateway is healthy, and delivers none of them in any way."""
    scratch.variables["TELEGRAM_BOT_TOKEN"] = "secret"
    files = sorted(gateway.root.rglob("*"))
    process = scratch.start("release.drill", "--boot", "--json")
    seen: set[str] = set()
    while process.poll() is None:  # a worker takes longer to start than one pass of this loop
        seen |= drill_processes()
    out, _ = process.communicate()
    document = json.loads(out)
    assert (process.returncode, document["status"], document["boot"]["passed"]) == (0, "passed", True)
    assert (document["boot"]["health"]["status"], document["boot"]["health"]["degraded"]) == ("ok", [])
    (database,) = document["databases"]
    assert (database["tables"]["messages"], database["tables"]["deliveries"]) == (3, 3)
    here = {line for line in seen if str(scratch.root) in line}
    assert here
    assert not any("dispatcher" in line or "mcp" in line for line in here), here
    assert sink.bodies == []
    assert sorted(gateway.root.rglob("*")) == files
    with contextlib.closing(sqlite3.connect(gateway.database)) as live:
        assert live.execute("SELECT DISTINCT state FROM deliveries").fetchall() == [("queued",)]


def test_a_gateway_without_rehearsal_delivers(gateway: GatewayPaths, sink: Sink) -> None:
    """The test above would notice a delivery."""
    from release_tasks.gateway import process

    process.start(gateway, port=0)
    try:
        await_true(lambda: len(sink.bodies) == 3, seconds=30.0)
    finally:
        process.stop(gateway)
