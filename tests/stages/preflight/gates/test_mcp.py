"""MCP gates: every server that a host would start passes, and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.records import Check

Checker = Callable[..., Check]


@pytest.fixture
def mcp(check: Checker, tmp_path: Path) -> Callable[[Any], Check]:
    """Return a function that checks an MCP configuration given as a value."""

    def start(value: Any) -> Check:
        (tmp_path / "mcp.json").write_text(json.dumps(value))
        return check({"mcp": "mcp.json"})

    return start


GOOD = {"command": "sh", "args": ["-c", "true"], "env": {"A": "b"}}


@pytest.mark.parametrize(
    "value",
    [
        {"mcpServers": {"a": GOOD}},
        {"servers": {"a": GOOD}},
        {"servers": [{"id": "a", **GOOD}]},
        {"servers": [{"name": "a", **GOOD}]},
    ],
)
def test_every_known_form_passes(mcp: Callable[[Any], Check], value: Any) -> None:
    """Both maps and the list are read."""
    result = mcp(value)
    assert (result.status, result.detail) == ("passed", "mcp.json: 1 server can be started")
    assert result.diagnostics["servers"] == ["a"]


@pytest.mark.parametrize("value", [{}, {"server": {}}, [], 3, None, {"mcpServers": "x"}])
def test_an_unknown_form_fails_and_lists_the_known_ones(mcp: Callable[[Any], Check], value: Any) -> None:
    """The message lists the known forms."""
    result = mcp(value)
    assert result.status == "failed"
    assert "a map 'mcpServers', a map 'servers' or a list 'servers'" in result.detail


@pytest.mark.parametrize("value", [{"mcpServers": {}}, {"servers": []}])
def test_a_file_without_servers_passes(mcp: Callable[[Any], Check], value: Any) -> None:
    """There is no server to check."""
    result = mcp(value)
    assert (result.status, result.detail) == ("passed", "mcp.json: no servers configured")


CANNOT_START: list[tuple[Any, str]] = [
    ({}, "has neither a command nor a url"),
    ({"type": "stdio"}, "has no command"),
    ({"type": "stdio", "url": "http://x/"}, "has no command"),
    ({"command": ""}, "has an empty command"),
    ({"command": 7}, "has a command that is not a string"),
    ({"command": "nosuch-server"}, "has a command that is not on PATH: 'nosuch-server'"),
    ({"command": "/no/such"}, "has a command that does not exist: '/no/such'"),
    ({"command": "./plain.txt"}, "has a command that is not executable: './plain.txt'"),
    ({"command": "sh", "args": "-c"}, "has args that are not a list of strings"),
    ({"command": "sh", "args": [1]}, "has args that are not a list of strings"),
    ({"command": "sh", "args": {"0": "x"}}, "has args that are not a list of strings"),
    ({"command": ["sh", 1]}, "has args that are not a list of strings"),
    ({"command": []}, "has an empty command"),
    ({"command": [7]}, "has a command that is not a string"),
    ({"command": True}, "has a command that is not a string"),
    ({"command": "sh -c x"}, "has arguments in its command, which belong into args: 'sh -c x'"),
    ({"command": "nosuch -y x"}, "has a command that is not on PATH: 'nosuch -y x'"),
    ({"command": "C:\\node.exe"}, "has a command that is not on PATH: 'C:\\\\node.exe'"),
    ({"command": "/usr"}, "has a command that is a folder: '/usr'"),
    (
        {"command": "./script"},
        "has a command whose interpreter does not exist: '/no/such/python', named in {here}/script",
    ),
    (
        {"command": "./env-script"},
        "has a command whose interpreter is not on PATH: 'nosuch', named in {here}/env-script",
    ),
    ({"command": "./../{name}/plain.txt"}, "has a command that is not executable: './../{name}/plain.txt'"),
    ({"command": "./run", "cwd": "tools"}, "has a command that does not exist: './run'"),
    ({"command": "~/nosuch"}, "has a command that does not exist: '{home}/nosuch'"),
    ({"command": "${workspaceFolder}/nosuch"}, "has a command that does not exist: '{here}/nosuch'"),
    ({"command": "${NOWHERE:-nosuch}"}, "has a command that is not on PATH: 'nosuch'"),
    ({"command": "sh", "cwd": "nosuch"}, "has a cwd that does not exist: 'nosuch'"),
    ({"command": "sh", "cwd": "plain.txt"}, "has a cwd that is not a folder: 'plain.txt'"),
    ({"command": "${NOWHERE}/x", "cwd": "~/nosuch"}, "has a cwd that does not exist: '~/nosuch'"),
    ({"command": "sh", "cwd": 5}, "has a cwd that is not a string"),
    ({"command": "sh", "envFile": ".env"}, "has an envFile that does not exist: '.env'"),
    ({"command": "sh", "env": {"A": [1]}}, "has an env that is not a map of strings"),
    ({"command": "sh", "env": ["A"]}, "has an env that is not a map of strings"),
    ({"command": "sh", "env": "A=b"}, "has an env that is not a map of strings"),
    ({"command": "sh", "env": {"A=B": "c"}}, "has an env with the invalid name 'A=B'"),
    ({"command": "sh", "args": ["\0"]}, "has a null character in its command, args or env"),
    ({"url": "ftp://x"}, "has a url that is not http://, https://, ws:// or wss://: 'ftp://x'"),
    ({"url": "x.example.com/mcp"}, "has a url that is not http://, https://, ws:// or wss://: 'x.example.com/mcp'"),
    ({"url": ""}, "has an empty url"),
    ({"url": "http://[x"}, "has a url that is not valid (Invalid IPv6 URL): 'http://[x'"),
    ({"url": "http://x:99999/"}, "has a url that is not valid (Port out of range 0-65535): 'http://x:99999/'"),
    (
        {"url": "http://x:http/"},
        "has a url that is not valid (Port could not be cast to integer value as 'http'): 'http://x:http/'",
    ),
    ({"url": "http://x:0/"}, "has a url with the port 0: 'http://x:0/'"),
    ({"url": "https:///mcp"}, "has a url without a host name: 'https:///mcp'"),
    ({"url": "http://a b/"}, "has a url without a host name: 'http://a b/'"),
    ({"url": 5}, "has a url that is not a string: 5"),
    ({"url": "http://x/", "headers": {"A": {}}}, "has headers that are not a map of strings"),
    ({"url": "http://x/", "headers": "A: b"}, "has headers that are not a map of strings"),
    ({"type": "http"}, "has the transport http, but no url"),
    ({"type": "ws", "command": "sh"}, "has the transport ws, but no url"),
    ("sh", "is not a JSON object"),
    (None, "is not a JSON object"),
]


def test_a_server_that_cannot_start_is_named(
    mcp: Callable[[Any], Check], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message has the id of the server."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "plain.txt").write_text("x")
    (tmp_path / "tools").mkdir()
    for script, interpreter in (
        ("run", "/bin/sh"),
        ("script", "/no/such/python"),
        ("env-script", "/usr/bin/env nosuch"),
    ):
        (tmp_path / script).write_text(f"#!{interpreter}\n")
        (tmp_path / script).chmod(0o755)
    servers = {str(number): server for number, (server, _) in enumerate(CANNOT_START)}
    config = json.dumps({"mcpServers": servers}).replace("{name}", tmp_path.name)
    names = {"{here}": str(tmp_path), "{name}": tmp_path.name, "{home}": str(tmp_path / "home")}
    expected = []
    for number, (_, problem) in enumerate(CANNOT_START):
        for name, value in names.items():
            problem = problem.replace(name, value)
        expected.append(f"mcp.json: server '{number}' {problem}")
    result = mcp(json.loads(config))
    assert result.diagnostics["problems"] == expected
    assert (result.status, result.detail) == ("failed", f"{expected[0]} (and {len(expected) - 1} more)")


def test_commands_are_looked_up_as_a_host_does(
    mcp: Callable[[Any], Check], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Next to the running Python, on the server's own PATH, in its folder, in the home folder, by absolute path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools/my tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o700)
    servers = {
        "python": {"command": os.path.basename(sys.executable)},
        "absolute": {"command": sys.executable, "args": None, "env": None, "cwd": None, "url": None},
        "path": {"command": "my tool", "env": {"PATH": str(tool.parent)}},
        "folder": {"command": "./my tool", "cwd": "tools"},
        "home folder": {"command": "./my tool", "cwd": "~/tools"},
        "project": {"command": "tools/my tool"},
        "home": {"command": "~/tools/my tool"},
        "variable": {"command": "${HERE}/my tool", "env": {"HERE": str(tool.parent)}},
        "workspace": {"command": "${workspaceFolder}/tools/my tool", "cwd": "${workspaceFolder}"},
        "default": {"command": "${NOBODY_SETS_THIS:-sh}"},
        "list": {"command": ["sh", "-c"], "args": ["true"]},
        "values": {"command": "sh", "env": {"A": 1, "B": 1.5, "C": True, "D": None}},
        "remote": {"url": "https://mcp.example.com/sse", "headers": {"X-Retries": 3, "X-Trace": False}},
        "socket": {"type": "ws", "url": "wss://mcp.example.com/"},
        "six": {"url": "http://[::1]:8080/a b"},
        "both": {"command": "sh", "url": "ftp://not-used"},
        "type": {"type": "http", "command": "not-used", "url": "HTTPS://mcp.example.com"},
        "nested": {"transport": {"type": "stdio", "command": "sh", "args": ["-c"]}},
    }
    result = mcp({"mcpServers": servers})
    assert (result.status, result.detail) == ("passed", "mcp.json: 18 servers can be started")


def test_what_only_the_service_knows_is_named(mcp: Callable[[Any], Check]) -> None:
    """The gate cannot tell whether the host has a value, so it passes and says what it did not check."""
    servers = {
        "command": {"command": "${env:NOBODY_SETS_THIS}/server"},
        "folder": {"command": "./x", "cwd": "${NOBODY_SETS_THAT}"},
        "url": {"url": "${input:url}/mcp"},
        "port": {"url": "https://x:${NOBODY_SETS_THIS}/"},
    }
    result = mcp({"mcpServers": servers})
    names = ["NOBODY_SETS_THIS", "NOBODY_SETS_THAT", "input:url"]
    assert result.diagnostics["unset"] == names
    assert (result.status, result.detail) == (
        "passed",
        f"mcp.json: 4 servers can be started, if the service has values for: {', '.join(names)}",
    )


def test_a_file_of_an_editor_is_for_the_folder_above(check: Checker, tmp_path: Path) -> None:
    """In .vscode/mcp.json, the workspace is the folder that contains .vscode, also when the project is below it."""
    (tmp_path / ".vscode").mkdir()
    (tmp_path / "server").write_text("#!/bin/sh\n")
    (tmp_path / "server").chmod(0o755)
    (tmp_path / ".vscode/mcp.json").write_text(
        '{"servers": {"a": {"command": "./server"}, "b": {"command": "${workspaceFolder}/server",},}} // both'
    )
    assert check({"mcp": ".vscode/mcp.json"}).detail == ".vscode/mcp.json: 2 servers can be started"


def test_disabled_servers_are_not_checked(mcp: Callable[[Any], Check]) -> None:
    """A disabled server need not start."""
    bad = {"command": "nosuch-server"}
    result = mcp({"servers": {"a": {**bad, "disabled": True}, "b": {**bad, "enabled": False}, "c": GOOD}})
    assert (result.status, result.detail) == (
        "passed",
        "mcp.json: 1 server can be started, 2 disabled",
    )


def test_duplicates_and_all_other_problems_are_listed(
    mcp: Callable[[Any], Check], check: Checker, tmp_path: Path
) -> None:
    """Two servers with one id, as list entries or as keys, are found along with all other problems."""
    servers = [{"id": "a", **GOOD}, {"name": "a", **GOOD}, {}, 5, {"id": "b"}]
    result = mcp({"servers": servers})
    assert result.diagnostics["problems"] == [
        "mcp.json: two servers have the id 'a'",
        "mcp.json: entry 3 of 'servers' has neither an id nor a name",
        "mcp.json: entry 4 of 'servers' has neither an id nor a name",
        "mcp.json: server 'b' has neither a command nor a url",
    ]
    assert result.detail == "mcp.json: two servers have the id 'a' (and 3 more)"
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "sh"}, "a": {"command": "sh"}}}')
    assert check({"mcp": "mcp.json"}).detail == "mcp.json: duplicate key 'a'"


def test_malformed_mcp_json_has_line_and_column(check: Checker, tmp_path: Path) -> None:
    """The message has the position of the syntax error."""
    (tmp_path / "mcp.json").write_text('{"mcpServers": {\n  "a": {"command": "sh"} "b"\n}}')
    result = check({"mcp": "mcp.json"})
    assert result.status == "failed"
    assert result.detail.startswith("mcp.json is not valid JSON: line 2, column 26: ")
    assert result.diagnostics["next"] == "inv gate.run gate"
    (tmp_path / "mcp.json").unlink()
    os.mkfifo(tmp_path / "mcp.json")
    assert check({"mcp": "mcp.json"}).detail == "mcp.json is not a file"
