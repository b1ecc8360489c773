"""A gateway in a rehearsal serves requests and acts on nothing outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from release_tasks.core.process.find import children_of
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile
from release_tasks.gateway.store import MessageStore
from tests.support.processes import await_true


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[PidFile]:
    """Return a gateway, started with --rehearsal, that has a queued message and a configured MCP server."""
    home = GatewayPaths(tmp_path / "gateway")
    home.initialise()
    store = MessageStore(home.database)
    store.add_message("email", "someone", "queued")
    store.close()
    line = [sys.executable, "-m", "release_tasks.gateway", "--root", str(home.root), "--port", "0", "--rehearsal"]
    process = subprocess.Popen(line)

    def answers() -> PidFile | None:
        record = PidFile.read(home.pid_file)
        if record is None or record.port is None:
            return None
        try:
            requests.get(f"http://127.0.0.1:{record.port}/health/live", timeout=5)
        except requests.ConnectionError:
            return None
        return record

    yield await_true(answers)
    process.terminate()
    assert process.wait(10) == 0


@pytest.mark.slow
def test_a_rehearsal_is_healthy_without_worker_and_servers(rehearsal: PidFile) -> None:
    """Worker and MCP servers are normally children of the service from its start; a rehearsal has none."""
    health = requests.get(f"http://127.0.0.1:{rehearsal.port}/health", timeout=5).json()["data"]
    assert (health["status"], health["problems"]) == ("ok", [])
    assert (health["dispatcher"]["running"], health["dispatcher"]["pid"]) == (None, None)
    assert health["queue"]["queued"] == 1
    assert children_of(rehearsal.pid) == []


@pytest.mark.slow
def test_messages_posted_to_a_rehearsal_stay_queued(rehearsal: PidFile) -> None:
    """No worker delivers them."""
    url = f"http://127.0.0.1:{rehearsal.port}/messages"
    assert requests.post(url, json={"channel": "email", "to": "x", "text": "y"}, timeout=5).status_code == 202
    assert children_of(rehearsal.pid) == []
    states = [message["state"] for message in requests.get(url, timeout=5).json()["data"]["messages"]]
    assert states == ["queued", "queued"]
