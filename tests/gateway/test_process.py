"""The gateway in the background: one per folder, its status is true, and it ends completely."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from psutil import Process

from release_tasks.core.interrupt import STOP_SIGNALS
from release_tasks.core.process.find import children_of, is_running, start_ticks
from release_tasks.gateway import process
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile
from tests.support.gateway import RunningGateway
from tests.support.processes import await_true

linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def _below(pid: int, count: int) -> list[Process]:
    """Wait until the gateway has its worker and its MCP server, and return them."""
    found = await_true(lambda: (below := children_of(pid)) and len(below) >= count and below)
    assert isinstance(found, list)
    return found


def test_start_returns_once_it_answers(start_gateway: Callable[..., Any]) -> None:
    """Start returns when the gateway answers, with its pid."""
    started = time.monotonic()
    gateway = start_gateway()
    assert time.monotonic() - started < 5  # generous: other tests may run at the same time
    assert gateway.get("/health/live").json()["data"] == {"status": "alive", "pid": gateway.pid}


def test_the_first_start_creates_a_private_folder(gateway: RunningGateway) -> None:
    """The folder is complete, and other users cannot read it."""
    home = gateway.home
    for path in (home.database, home.mcp_servers, home.settings, home.gui, home.pid_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (home.identity / "identity.json", home.identity / "soul.md", home.log_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (home.root, home.identity, home.gui.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    assert json.loads(home.settings.read_text())["version"] == "1.0.0"


@pytest.mark.slow
def test_a_later_start_recreates_nothing(start_gateway: Callable[..., Any]) -> None:
    """Health names a file that was lost while the gateway was stopped; start does not replace it."""
    gateway = start_gateway()
    process.stop(gateway.home)
    (gateway.home.identity / "identity.json").unlink()
    gateway.home.mcp_servers.unlink()
    gateway.home.database.unlink()
    gateway = start_gateway()
    answer = gateway.get("/health")
    assert answer.status_code == 503 and answer.json()["ok"] is False
    data = answer.json()["data"]
    assert data["identity"]["status"] == data["mcpConfig"]["status"] == "missing"
    assert "gateway.db is missing" in data["database"]["detail"]
    assert not gateway.home.database.exists()


def test_an_interrupted_first_start_is_completed(tmp_path: Path) -> None:
    """The next start completes the folder and retains existing files."""
    home = GatewayPaths(tmp_path / "gateway")
    home.initialise()
    identity = (home.identity / "identity.json").read_bytes()
    (home.root / ".laying-out").touch()
    home.settings.unlink()
    home.database.unlink()
    assert home.initialise() is True
    assert home.settings.exists() and home.database.exists()
    assert (home.identity / "identity.json").read_bytes() == identity
    assert home.initialise() is False


@pytest.mark.slow
def test_a_second_start_returns_the_running_gateway(gateway: RunningGateway) -> None:
    """It reports that the gateway was running already."""
    again = process.start(gateway.home, port=0)
    assert again.pid == gateway.pid and again.url == gateway.url
    assert "already running" in again.detail


@pytest.mark.slow
def test_two_gateways_cannot_share_a_folder(gateway: RunningGateway) -> None:
    """A second service is refused with a message, even without the pid file."""
    gateway.home.pid_file.unlink()
    with pytest.raises(GatewayError, match="already running in"):
        process.start(gateway.home, port=0)
    os.kill(gateway.pid, signal.SIGTERM)
    await_true(lambda: not is_running(gateway.pid))


@linux_only
@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.slow
def test_each_signal_to_the_process_group_ends_the_gateway_in_order(
    start_gateway: Callable[..., Any], number: signal.Signals
) -> None:
    """A terminal that closes sends SIGHUP to the gateway and its worker: both end, and the WAL is folded in."""
    gateway = start_gateway()
    below = _below(gateway.pid, 2)
    os.killpg(gateway.pid, number)
    await_true(lambda: not any(map(is_running, [gateway.pid, *below])))
    assert not gateway.home.pid_file.exists()
    assert not gateway.home.database.with_name("gateway.db-wal").exists()


@pytest.mark.slow
@linux_only
def test_stop_removes_processes_and_pid_file(gateway: RunningGateway) -> None:
    """The service, its dispatcher, its MCP server and the WAL are gone within 2 s."""
    below = _below(gateway.pid, 2)
    started = time.monotonic()
    status = process.stop(gateway.home)
    assert time.monotonic() - started < 5
    assert not status.running and status.detail == "Stopped."
    assert not is_running(gateway.pid)
    assert not any(map(is_running, below))
    assert not gateway.home.pid_file.exists()
    assert not gateway.home.database.with_name("gateway.db-wal").exists()
    assert "was not running" in process.stop(gateway.home).detail


@pytest.mark.slow
@linux_only
def test_stop_checkpoints_the_wal_after_a_hanging_dispatcher(gateway: RunningGateway) -> None:
    """A killed dispatcher does not close its database: the service closes its own after it, which removes the WAL."""
    below = _below(gateway.pid, 2)
    dispatcher = next(found for found in below if "release_tasks.gateway.dispatcher" in found.cmdline())
    await_true(lambda: any(Path(file.path) == gateway.home.database for file in dispatcher.open_files()))
    dispatcher.suspend()
    assert process.stop(gateway.home).detail == "Stopped."
    assert not is_running(dispatcher)
    assert not gateway.home.database.with_name("gateway.db-wal").exists()


@linux_only
def test_a_killed_gateway_leaves_no_orphan(gateway: RunningGateway) -> None:
    """After SIGKILL the dispatcher and the MCP server end by themselves, and the status is correct."""
    below = _below(gateway.pid, 2)
    os.kill(gateway.pid, signal.SIGKILL)
    await_true(lambda: not any(map(is_running, below)))
    status = process.status(gateway.home)
    assert not status.running and "stale" in status.detail


@pytest.mark.slow
@linux_only
def test_a_hanging_gateway_is_killed_with_its_children(gateway: RunningGateway) -> None:
    """A gateway that ignores SIGTERM, such as a stopped process, is killed after the timeout."""
    below = _below(gateway.pid, 2)
    os.kill(gateway.pid, signal.SIGSTOP)
    assert "was killed" in process.stop(gateway.home, timeout=0.3).detail
    assert not is_running(gateway.pid)
    assert not any(map(is_running, below))


@pytest.mark.slow
def test_a_stale_pid_file_does_not_prevent_a_start(
    start_gateway: Callable[..., Any],
) -> None:
    """A dead gateway left its pid file."""
    first = start_gateway()
    os.kill(first.pid, signal.SIGKILL)
    second = start_gateway()
    assert second.pid != first.pid and second.health()["status"] == "ok"


@linux_only
def test_a_reused_pid_is_not_the_gateway(tmp_path: Path) -> None:
    """A pid file of a live process with another start time is stale, and stop leaves that process alone."""
    home = GatewayPaths(tmp_path)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ticks = start_ticks(bystander.pid)
        assert ticks is not None
        record = PidFile(pid=bystander.pid, start_ticks=ticks - 1, host="127.0.0.1", port=1, started_at="")
        record.write(home.pid_file)
        assert not process.status(home).running
        # Without a start time the command line decides.
        evolve(record, start_ticks=None).write(home.pid_file)
        assert not process.status(home).running
        assert not process.stop(home).running
        assert bystander.poll() is None
        assert not home.pid_file.exists()
    finally:
        bystander.communicate(b"\n")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}', '{"pid": -1}'])
def test_a_malformed_pid_file_means_not_running(tmp_path: Path, text: str) -> None:
    """With any content of the file, stop kills no process."""
    home = GatewayPaths(tmp_path)
    home.pid_file.write_text(text)
    assert not process.status(home).running
    assert "was not running" in process.stop(home).detail


def test_a_port_in_use_is_refused_before_the_start(tmp_path: Path) -> None:
    """The message names the port; no folder is created."""
    home = GatewayPaths(tmp_path / "gateway")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=f"port {port} on 127.0.0.1 is already in use"):
            process.start(home, port=port)
    assert not home.root.exists()


def test_a_port_lost_in_a_race_is_refused_with_the_same_message(tmp_path: Path) -> None:
    """The service itself reports that the port was taken in the meantime."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "release_tasks.gateway", "--root", str(tmp_path / "g")]
        ended = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 is already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_only_loopback_by_default(tmp_path: Path, host: str) -> None:
    """A host that others can reach is refused before the start."""
    with pytest.raises(GatewayError, match="other machines could connect"):
        process.start(GatewayPaths(tmp_path / "gateway"), host=host, port=0)
    assert not (tmp_path / "gateway").exists()


@pytest.mark.slow
def test_a_remote_host_is_served_when_allowed(start_gateway: Callable[..., Any]) -> None:
    """With --allow-remote the gateway listens on every address."""
    gateway = start_gateway(host="0.0.0.0", allow_remote=True)
    assert gateway.url.startswith("http://127.0.0.1:")
    assert gateway.health()["status"] == "ok"


def test_a_missing_extra_is_reported_with_the_command_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starlette or uvicorn the message names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GatewayError, match=r"pip install 'release-tasks\[gateway\]'"):
        process.start(GatewayPaths(tmp_path / "gateway"), port=0)


@pytest.mark.slow
def test_the_start_gate_runs_before_any_file_is_opened(start_gateway: Callable[..., Any], tmp_path: Path) -> None:
    """The gate runs in a folder without a database, and the gateway starts after it."""
    code = "import os,sys; sys.exit(os.path.exists(sys.argv[1]))"
    database = tmp_path / "gateway" / "gateway.db"
    gateway = start_gateway(start_gate=[sys.executable, "-c", code, str(database)])
    assert gateway.health()["status"] == "ok"


def test_a_failed_start_gate_refuses_the_start(tmp_path: Path) -> None:
    """The gateway opens nothing and names the gate."""
    home = GatewayPaths(tmp_path / "gateway")
    with pytest.raises(GatewayError, match=r"its start gate `.*` ended with exit code 3"):
        process.start(home, port=0, start_gate=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(GatewayError, match="cannot be run"):
        process.start(home, port=0, start_gate=["no-such-command-anywhere"])
    assert not home.database.exists() and not home.pid_file.exists()


@pytest.mark.slow
def test_a_hanging_start_gate_ends_with_the_start_timeout(tmp_path: Path) -> None:
    """The start ends with a message, and neither gate nor gateway stays."""
    home, mark = GatewayPaths(tmp_path / "gateway"), tmp_path / "gate.pid"
    code = "import os,sys,time; open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(GatewayError, match="did not respond within"):
        process.start(home, port=0, start_gate=[sys.executable, "-c", code, str(mark)], timeout=3.0)
    assert not is_running(int(mark.read_text()))
    assert not process.status(home).running


def test_a_gateway_that_ends_early_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the last lines of the child's log."""
    broken = tmp_path / "path" / "uvicorn"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('this uvicorn is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(GatewayError) as caught:
        process.start(GatewayPaths(tmp_path / "gateway"), port=0)
    assert "ended with exit code 1" in caught.value.message
    assert "this uvicorn is broken" in "\n".join(caught.value.output)


@pytest.mark.slow
def test_status_of_a_hanging_gateway_is_unreachable(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running process that hangs is not `stopped`, and start says what to do."""
    monkeypatch.setattr(process, "REQUEST_SECONDS", 0.2)
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        status = process.status(gateway.home)
        with pytest.raises(GatewayError, match=r"does not respond\. To stop it, run `inv gateway\.stop --root /"):
            process.start(gateway.home, port=0, timeout=0.1)
    finally:
        os.kill(gateway.pid, signal.SIGCONT)
    assert status.running and status.health == "unreachable"
