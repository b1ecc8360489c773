"""MCP servers: every form of configuration is read, a handshake proves a server, and every process is ended."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_tasks.config.mcp_launch import McpHost, launch_of
from release_tasks.config.mcp_servers import McpServer, parse_servers
from release_tasks.core.canonical import InvalidDocument
from release_tasks.gateway import mcp_clock
from release_tasks.gateway.errors import McpError, SettingsError
from release_tasks.gateway.mcp import CircuitBreaker, McpMonitor, read_servers
from release_tasks.gateway.mcp_session import McpSession
from tests.support.gateway import RunningGateway
from tests.support.processes import await_file, await_true, is_running, processes_with

# Real servers that hang, flood and crash take their time.
pytestmark = pytest.mark.slow

_HOST = McpHost(environment=os.environ, project=Path("/"), config_folder=Path("/"))
ENTRY = {"command": "run", "args": ["-x"]}
CLOCK = {"command": sys.executable, "args": ["-m", "release_tasks.gateway.mcp_clock"]}


@pytest.mark.parametrize(
    "config",
    [
        {"mcpServers": {"a": ENTRY}},
        {"servers": {"a": ENTRY}},
        {"servers": [{"id": "a", **ENTRY}]},
        {"servers": [{"name": "a", **ENTRY}]},
        {"servers": {"a": {"command": ["run", "-x"]}}},
    ],
)
def test_every_known_form_is_read(tmp_path: Path, config: dict[str, Any]) -> None:
    """Each form gives the same server."""
    (server,) = _servers(tmp_path, config)
    assert (server.id, server.name, server.command, server.args) == ("a", "a", "run", ("-x",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "mcp.json names no MCP servers: expected a map 'mcpServers'"),
        ({"servers": 1}, "mcp.json: 'servers' has an unknown format"),
        ({"servers": {"a": {}}}, "mcp.json: server 'a' has neither a command nor a url"),
        ({"servers": {"a": 7}}, "mcp.json: server 'a' is not a JSON object"),
        ({"servers": {"a": {"command": ""}}}, "mcp.json: server 'a' has an empty command"),
        ({"servers": {"a": {"command": "x", "args": "y"}}}, "server 'a' has args that are not a list of strings"),
        ({"servers": {"a": {"command": "x", "env": ["A"]}}}, "server 'a' has an env that is not a map of strings"),
        ({"servers": [{"id": "a", **ENTRY}] * 2}, "mcp.json: two servers have the id 'a'"),
        ({"servers": [ENTRY]}, "mcp.json: entry 1 of 'servers' has neither an id nor a name"),
    ],
)
def test_wrong_config_is_refused_with_its_path(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """The message says which entry is wrong and why."""
    with pytest.raises(SettingsError) as caught:
        _servers(tmp_path, config)
    assert message in caught.value.message


def _servers(folder: Path, config: dict[str, Any]) -> list[McpServer]:
    (folder / "mcp.json").write_text(json.dumps(config))
    return read_servers(folder / "mcp.json")


_JSON = st.recursive(
    st.sampled_from([None, True, 7, "", "run", "http://x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mcpServers", "servers", "id", "command", "args", "url", "env", "disabled", "type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["mcpServers", "servers", "mcp"]), _JSON))
def test_any_json_is_read_or_refused(config: dict[str, Any]) -> None:
    """Each configuration gives servers or a reason, and each server can be started or has a reason."""
    try:
        servers = parse_servers(config, "mcp.json", Path("/")).servers
    except InvalidDocument:
        return
    for server in servers:
        launch = launch_of(server, _HOST)
        assert server.problems or launch.url or launch.program or launch.problems or "enabled" in str(config)


def test_clock_speaks_the_protocol() -> None:
    """A real session with the bundled server lists its tool, calls it, and ends."""
    session = _session(McpServer(id="clock", name="clock", command=sys.executable, args=tuple(CLOCK["args"])))
    try:
        assert session.handshake(10) == 1
        deadline = time.monotonic() + 10
        called = session.request("tools/call", {"name": "clock.now"}, deadline)
        assert called["content"][0]["text"].endswith("Z")
        with pytest.raises(McpError, match="error -32601"):
            session.request("resources/list", {}, deadline)
    finally:
        session.close()
    assert not is_running(session.pid)


@pytest.mark.parametrize("line", [b"{", b"[]", b'"x"', b"{}", b"[" * 5000])
def test_the_clock_server_answers_malformed_requests(line: bytes) -> None:
    """A malformed request gets an error response."""
    response = mcp_clock.respond(line)
    assert response is not None and response["error"]["code"] in (-32600, -32700)


def _session(server: McpServer) -> McpSession:
    return McpSession(launch_of(server, _HOST))


def _server(tmp_path: Path, code: str) -> McpServer:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(code))
    return McpServer(id="x", name="x", command=sys.executable, args=(str(script),))


@pytest.mark.parametrize(
    ("code", "message", "timeout"),
    [
        ("raise SystemExit(3)", "ended with exit code 3", 20.0),
        ("import time; time.sleep(60)", "timeout: no response to initialize", 0.5),
        ("import sys, time; sys.stdin.close(); print('x' * 10); time.sleep(60)", "timeout|input", 0.5),
        ('input(); print(\'{"id": 1, "result": {}}\', flush=True); input()', "protocolVersion", 20.0),
        ('input(); print(\'{"id": 1, "error": {"code": -1}}\', flush=True); input()', "-1", 20.0),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "more than 4 MiB", 20.0),
    ],
)
def test_a_bad_server_is_an_error_and_is_ended(tmp_path: Path, code: str, message: str, timeout: float) -> None:
    """Each failure is reported within the timeout, and no process stays."""
    started = time.monotonic()
    session = _session(_server(tmp_path, code))
    try:
        with pytest.raises(McpError, match=message):
            session.handshake(timeout)
    finally:
        session.close()
    assert time.monotonic() - started < timeout + 5
    assert not is_running(session.pid)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """It ignores the end of its input and SIGTERM; its child is killed too."""
    note = tmp_path / "child"
    code = f"""
    import os, pathlib, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child:
        pathlib.Path({str(note)!r}).write_text(f"{{child}}\\n")
    time.sleep(600)
    """
    session = _session(_server(tmp_path, code))
    child = int(await_file(note))
    session.close()
    assert not is_running(session.pid)
    await_true(lambda: not is_running(child), seconds=5)


def test_a_server_with_a_url_is_listed_and_not_started(tmp_path: Path) -> None:
    """Its state says so; the other servers are used. A command wins over a URL, unless the type says otherwise."""
    config = tmp_path / "mcp.json"
    servers = {
        "url": {"url": "https://mcp.example.com/sse", "headers": {"Authorization": "t0ken"}},
        "variable": {"type": "http", "serverUrl": "${HOST}/mcp"},
        "off": {"url": "https://mcp.example.com/", "disabled": True},
        "both": {**CLOCK, "url": "https://mcp.example.com/"},
        "type": {**CLOCK, "type": "http", "url": "https://mcp.example.com/"},
    }
    config.write_text(json.dumps({"mcpServers": servers}))
    monitor = McpMonitor(config)
    states = {state["id"]: state for state in monitor.states(read_servers(config))}
    assert {key: state["state"] for key, state in states.items()} == {
        "url": "disconnected",
        "variable": "disconnected",
        "off": "disconnected",
        "both": "connecting",
        "type": "disconnected",
    }
    expected = "has no command: this gateway starts only MCP servers over stdio"
    assert states["url"]["detail"] == states["variable"]["detail"] == expected
    assert states["url"]["health"] == {"circuit": "closed", "failureCount": 0, "remainingCooldownMs": 0}


def test_the_circuit_opens_after_failures_and_retries() -> None:
    """Closed, open with a cooldown, half-open, open again, closed by a success."""
    circuit = CircuitBreaker(failures_to_open=2, cooldown=0.05)
    circuit.failed()
    assert circuit.state == "closed"
    circuit.failed()
    assert circuit.state == "open" and 0 < circuit.remaining <= 0.05
    time.sleep(circuit.remaining + 0.001)
    assert circuit.state == "half-open"
    circuit.failed()
    assert circuit.state == "open"
    circuit.succeeded()
    assert circuit.state == "closed" and circuit.failures == 0


def test_the_monitor_ends_its_processes(tmp_path: Path) -> None:
    """A stop is quick, also while a server does not answer the handshake."""
    slow = _server(tmp_path, "import time; time.sleep(600)")
    config = tmp_path / "mcp.json"
    entry = {"command": slow.command, "args": list(slow.args)}
    config.write_text(json.dumps({"mcpServers": {"clock": CLOCK, "slow": entry}}))
    monitor = McpMonitor(config)
    monitor.start()
    await_true(lambda: {"clock": "connected"}.items() <= _states(monitor).items())
    assert _states(monitor)["slow"] == "connecting"
    (slow_pid,) = processes_with(slow.args[0])
    started = time.monotonic()
    monitor.stop()
    assert time.monotonic() - started < 5
    assert not is_running(slow_pid)


def _states(monitor: McpMonitor) -> dict[str, str]:
    return {state["id"]: state["state"] for state in monitor.states(None)}


def test_a_changed_configuration_is_reloaded(gateway: RunningGateway) -> None:
    """A new server appears without a restart; a server that cannot be started degrades health."""
    await_true(lambda: gateway.health()["mcpServers"][0]["state"] == "connected")
    config = {
        "servers": [
            {"id": "clock", **CLOCK},
            {"id": "gone", "command": "no-such-mcp-server", "env": {"TOKEN": "t0ken"}},
            {"id": "off", "command": "no-such-mcp-server", "disabled": True},
            {"id": "web", "url": "https://mcp.example.com/"},
        ]
    }
    gateway.home.mcp_servers.write_text(json.dumps(config))
    await_true(
        lambda: {"gone": "error"}.items() <= {s["id"]: s["state"] for s in gateway.health()["mcpServers"]}.items()
    )
    answer = gateway.get("/health")
    data = answer.json()["data"]
    states = {server["id"]: server["state"] for server in data["mcpServers"]}
    assert data["status"] == "degraded" and states["off"] == "disconnected"
    assert states["web"] == "disconnected"
    assert data["problems"] == ["mcpServers.gone: has a command that is not on PATH: 'no-such-mcp-server'"]
    assert "t0ken" not in answer.text
    await_true(lambda: gateway.health()["mcpServers"][0]["state"] == "connected")
    gateway.home.mcp_servers.write_text(json.dumps({"mcpServers": {"clock": CLOCK}}))
    await_true(lambda: gateway.health()["status"] == "ok")


def test_gate_and_gateway_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the gate passes connects, and the gateway gives the reason of the gate for another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PART", "tools")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the cwd of a server is another one
    monkeypatch.chdir(tmp_path)
    clock = tmp_path / "tools/clock"
    for folder in (clock.parent, tmp_path / "home"):
        folder.mkdir()
        (folder / "clock").write_text(f"#!/bin/sh\nexec {sys.executable} -m release_tasks.gateway.mcp_clock\n")
        (folder / "clock").chmod(0o755)
    (tmp_path / "tools/plain").write_text("x")
    entries: dict[str, dict[str, Any]] = {
        "list": {"command": [sys.executable, "-m"], "args": ["release_tasks.gateway.mcp_clock"]},
        "home": {"command": "~/clock"},
        "cwd": {"command": "./clock", "cwd": "tools"},
        "project": {"command": "tools/clock", "args": None},
        "path": {"command": "clock", "env": {"PATH": f"{clock.parent}:{os.environ['PATH']}", "PORT": 8080}},
        "variable": {"command": "${NOWHERE:-.}/${env:PART}/clock", "cwd": "${workspaceFolder}"},
        "remote": {"url": "https://mcp.example.com/", "headers": {"X-Retries": 3}},
        "gone": {"command": "./clock"},
        "folder": {"command": "sh", "cwd": "nosuch"},
        "plain": {"command": "./plain", "cwd": "tools"},
        "port": {"url": "https://mcp.example.com:99999/"},
    }
    config = tmp_path / "config/mcp.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"mcpServers": entries}) + " // JSON with comments")
    host = McpHost(environment=os.environ, project=tmp_path, config_folder=config.parent)
    problems = {server.id: launch_of(server, host).problems for server in read_servers(config)}
    assert [name for name, found in problems.items() if found] == ["gone", "folder", "plain", "port"]
    monitor = McpMonitor(config)
    monitor.start()
    try:
        await_true(
            lambda: set(entries) == {name for name, state in _states(monitor).items() if state != "connecting"}, 60
        )
        states = {state["id"]: (state["state"], state["detail"]) for state in monitor.states(None)}
    finally:
        monitor.stop()
    for name, found in problems.items():
        if found:
            assert states[name] == ("error", found[0])
        elif name != "remote":
            assert states[name] == ("connected", None)
