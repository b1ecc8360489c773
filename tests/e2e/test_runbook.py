"""The complete runbook with real processes on the embedded gateway, which stays up and keeps its database open."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.health import Health
from tests.support.invoke_project import InvokeProject


class Gateway:
    """A scratch project whose service is the embedded gateway."""

    def __init__(self, scratch: InvokeProject, port: int) -> None:
        self.scratch = scratch
        self.url = f"http://127.0.0.1:{port}"
        self.home: Path = scratch.root / "home"
        release = scratch.configuration["release"]
        release["health"].update(url=f"{self.url}/health", deadline="10s")
        release["gates"] = {
            "api-health": {"http": "health"},
            "gui": {"http": f"{self.url}/", "expect": {"text": "release-tasks gateway"}},
            "dispatcher": {"http": f"{self.url}/health", "expect": {"json": "data.dispatcher.running", "equals": True}},
            "mcp-config": {"mcp": "home/mcp-servers.json"},
        }
        release["assets"] = {
            "database": {"sqlite": "home/gateway.db"},
            "identity": {"directory": "home/identity"},
            "mcp": {"file": "home/mcp-servers.json"},
        }
        scratch.configuration["gateway"] = {"port": port, "root": "home"}

    def post(self, text: str) -> None:
        message = {"channel": "telegram", "to": "1000", "text": text}
        requests.post(f"{self.url}/messages", json=message, timeout=10).raise_for_status()

    def texts(self) -> list[str]:
        answer = requests.get(f"{self.url}/messages", params={"limit": 100}, timeout=10).json()["data"]
        messages = answer["messages"] if isinstance(answer, dict) else answer
        return [message["text"] for message in messages]

    def health(self) -> dict[str, Any]:
        data: dict[str, Any] = requests.get(f"{self.url}/health", timeout=10).json()["data"]
        return data

    def await_status(self, wanted: str) -> None:
        deadline = time.monotonic() + 20
        while self.health()["status"] != wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.health()["status"] == wanted

    def damage(self) -> None:
        with closing(sqlite3.connect(self.home / "gateway.db", timeout=10)) as database, database:
            database.execute("DELETE FROM messages")
        (self.home / "identity" / "identity.json").write_text("no JSON")
        (self.home / "mcp-servers.json").write_text('{"mcpServers": ')

    def files(self) -> dict[str, bytes]:
        paths = [*(self.home / "identity").iterdir(), self.home / "mcp-servers.json"]
        return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def gateway(scratch: InvokeProject, free_port: int) -> Iterator[Gateway]:
    """Return a running gateway, which is stopped afterwards."""
    made = Gateway(scratch, free_port)
    started = scratch.run("gateway.start")
    assert started.returncode == 0, started
    yield made
    stopped = scratch.run("gateway.stop")
    assert stopped.returncode == 0, stopped


@pytest.mark.slow
def test_release_damage_rollback_and_continue(gateway: Gateway) -> None:
    """State, files and health are restored under the running service, which writes on; a second rollback is a noop."""
    run = gateway.scratch
    gateway.post("before the release")
    gateway.await_status("ok")
    files = gateway.files()
    manifest = run.document("release.prepare", "--release-id", "v1")
    assert manifest["status"] == "ready"
    gateway.post("after the release")
    gateway.damage()
    assert gateway.health()["status"] == "degraded"
    outcome = run.document("release.rollback")
    assert (outcome["status"], outcome["restoredAssets"]) == ("restored", ["database", "identity", "mcp"])
    assert (gateway.texts(), gateway.files(), gateway.health()["status"]) == (["before the release"], files, "ok")
    gateway.post("after the rollback")
    assert run.document("release.rollback")["status"] == "noop"
    assert run.run("gateway.restart").returncode == 0
    assert gateway.texts() == ["before the release", "after the rollback"]
    assert run.document("release.audit")["status"] == "intact"
    assert run.document("release.verify")["status"] == "verified"
    back = run.document("release.rollback", "--snapshot", outcome["safetySnapshotId"])
    # The safety snapshot is complete too: restoring it brings the damage back, and health reports it.
    assert (back["healthCheck"]["status"], gateway.texts()) == ("degraded", [])


@pytest.mark.slow
def test_rollback_when_the_service_is_down(gateway: Gateway) -> None:
    """In place but health failed: run again with explicit snapshot and restart command; later data stays."""
    run = gateway.scratch
    gateway.post("one")
    snapshot = run.document("release.prepare", "--release-id", "v1")["snapshot"]["snapshotId"]
    gateway.damage()
    assert run.document("release.rollback")["status"] == "restored"
    gateway.post("two")
    assert run.run("gateway.stop").returncode == 0
    failed = run.document("release.rollback", code=1)
    assert failed["status"] == "failed"
    assert any("--restart-command" in message for message in failed["diagnostics"])
    fixed = run.document("release.rollback", "--snapshot", snapshot, "--restart-command", "inv gateway.start")
    assert (fixed["status"], fixed["restoredAssets"]) == ("restored", [])
    assert gateway.texts() == ["one", "two"]


def drop_gui(gateway: Gateway) -> None:
    (gateway.home / "gui" / "index.html").unlink()


def kill_dispatcher(gateway: Gateway) -> None:
    os.kill(gateway.health()["dispatcher"]["pid"], 9)
    deadline = time.monotonic() + 20
    while gateway.health()["dispatcher"]["running"] and time.monotonic() < deadline:
        time.sleep(0.02)


def drop_mcp_config(gateway: Gateway) -> None:
    (gateway.home / "mcp-servers.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remove", "gate"), [(drop_gui, "gui"), (kill_dispatcher, "dispatcher"), (drop_mcp_config, "mcp-config")]
)
def test_interface_gates_fail_alone(gateway: Gateway, remove: Callable[[Gateway], None], gate: str) -> None:
    """Each readiness gate checks its own interface only."""
    gateway.await_status("ok")
    remove(gateway)
    report = gateway.scratch.document("release.preflight", code=1)
    if gate == "mcp-config":  # its file is a required asset too, so no gate runs
        assert report["failedChecks"][0] == "configuration"
    else:
        assert report["failedChecks"] == [gate]
    alone = gateway.scratch.document("gate.interfaces", code=1)
    assert alone["failedChecks"] == [gate]


@pytest.mark.slow
def test_a_port_in_use_is_refused(scratch: InvokeProject, health: Health) -> None:
    """The gateway does not start, and nothing stays running."""
    port = health.url.split(":")[2].split("/")[0]
    done = scratch.run("gateway.start", "--port", port, "--root", "elsewhere")
    assert (done.returncode, port in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    assert scratch.run("gateway.status", "--root", "elsewhere").returncode == 1


@pytest.mark.slow
def test_start_recovers_an_interrupted_rollback_first(gateway: Gateway) -> None:
    """The rollback that a crash interrupted is finished before the gateway opens its database."""
    run = gateway.scratch
    gateway.post("one")
    run.document("release.prepare", "--release-id", "v1")
    gateway.damage()
    crash = (
        "import os, release_tasks.assets.sqlite.kind as kind\n"
        "kind.restore_database = lambda *a: os._exit(9)\n"
        "from release_tasks.tasks.program import main\nimport sys\n"
        "sys.argv = ['release-tasks', 'release.rollback']\nmain()\n"
    )
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", crash], cwd=run.root, env=run.variables).returncode == 9
    assert (run.root / "pipeline" / "rollback-journal.json").exists()
    assert run.document("release.status")["interrupted"] is True
    assert run.run("gateway.restart").returncode == 0
    assert not (run.root / "pipeline" / "rollback-journal.json").exists()
    assert gateway.texts() == ["one"]
    gateway.await_status("ok")
    assert json.loads((run.root / "pipeline" / "rollback-state.json").read_text())["restored"] is True
