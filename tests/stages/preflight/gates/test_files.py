"""Gates that check files: path, json and mcp."""

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


# path


def test_a_file_and_a_folder_with_content_pass(check: Checker, tmp_path: Path) -> None:
    """The detail names the kind."""
    (tmp_path / "gui").mkdir()
    (tmp_path / "gui/package.json").write_text("{}")
    assert check({"path": "gui"}).detail == "gui is a folder"
    result = check({"path": "gui/package.json"})
    assert (result.status, result.detail) == ("passed", "gui/package.json is a file of 2 bytes")
    (tmp_path / "link").symlink_to("gui")
    assert check({"path": "link"}).status == "passed"


def test_missing_empty_and_dangling_paths_fail(check: Checker, tmp_path: Path) -> None:
    """Each case has its message."""
    (tmp_path / "empty").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "link").symlink_to("gone")
    for name, detail in {
        "nowhere/x": "nowhere/x is missing",
        "empty": "empty is an empty file",
        "bare": "bare is an empty folder",
        "link": "link is a link to gone, which is missing",
        "empty/x": "empty/x cannot be read: Not a directory",
    }.items():
        result = check({"path": name})
        assert (result.status, result.detail) == ("failed", detail)
        assert result.diagnostics["next"] == f"ls -la {tmp_path / name}"


# json


@pytest.mark.parametrize("text", ["{}", "[1]", '"x"', '{"a": {"b": [null, 1.5]}}'])
def test_valid_json_passes(check: Checker, tmp_path: Path, text: str) -> None:
    """Any JSON value is valid, also through a link."""
    (tmp_path / "real.json").write_text(text)
    (tmp_path / "a.json").symlink_to("real.json")
    assert check({"json": "a.json"}).detail == "a.json is valid JSON"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{\n  "a": 1,\n}', "a.json is not valid JSON: line "),
        (b'{\n  "a" 1}', "a.json is not valid JSON: line 2, column 7: Expecting ':' delimiter"),
        (b"", "a.json is not valid JSON: line 1, column 1"),
        (b"\xff", "a.json is not UTF-8 text (byte 0)"),
        (b'{"a": 1, "a": 2}', "a.json: duplicate key 'a'"),
        (b"[NaN]", "a.json is not valid JSON: NaN is not JSON"),
        (b"[" * 100_000, "a.json is nested too deeply"),
        (b"9" * 10_000, "a.json is not valid JSON: "),
    ],
)
def test_malformed_json_fails(check: Checker, tmp_path: Path, data: bytes, detail: str) -> None:
    """The message has line and column."""
    (tmp_path / "a.json").write_bytes(data)
    result = check({"json": "a.json"})
    if data == b"9" * 10_000 and result.status == "passed":
        pytest.skip("this Python reads numbers of any length")
    assert result.status == "failed"
    assert result.detail.startswith(detail)
    assert "Traceback" not in repr(result)


def test_a_path_of_another_type_fails(check: Checker, tmp_path: Path) -> None:
    """A folder, a pipe without a writer and a missing file are named; none hangs."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert check({"json": "folder"}).detail == "folder is not a file"
    assert check({"json": "pipe"}).detail == "pipe is not a file"
    assert check({"json": "nowhere"}).detail == "nowhere is missing"
    assert check({"mcp": "nowhere"}).detail == "nowhere is missing"


# mcp


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


@pytest.mark.parametrize(
    ("server", "problem"),
    [
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
        ({"command": "sh", "env": {"A": 1}}, "has an env that is not a map of strings"),
        ({"command": "sh", "env": ["A"]}, "has an env that is not a map of strings"),
        ({"url": "ftp://x"}, "has a url that is not http:// or https://: 'ftp://x'"),
        ({"url": "http://[x"}, "has a url that is not http:// or https://: 'http://[x'"),
        ({"url": 5}, "has a url that is not http:// or https://: '5'"),
        ({"type": "http"}, "has the transport http, but no url"),
        ("sh", "is not a JSON object"),
        (None, "is not a JSON object"),
    ],
)
def test_a_server_that_cannot_start_is_named(
    mcp: Callable[[Any], Check], tmp_path: Path, server: Any, problem: str
) -> None:
    """Each message has the id of the server."""
    (tmp_path / "plain.txt").write_text("x")
    result = mcp({"mcpServers": {"bad": server}})
    assert (result.status, result.detail) == ("failed", f"mcp.json: server 'bad' {problem}")


def test_commands_are_looked_up_as_the_service_does(mcp: Callable[[Any], Check], tmp_path: Path) -> None:
    """Next to the running Python, on the server's own PATH, in its folder, by absolute path."""
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools/my-tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o700)
    servers = {
        "python": {"command": os.path.basename(sys.executable)},
        "absolute": {"command": sys.executable},
        "path": {"command": "my-tool", "env": {"PATH": str(tool.parent)}},
        "folder": {"command": "./my-tool", "cwd": "tools"},
        "project": {"command": "tools/my-tool"},
        "variable": {"command": "${HERE}/my-tool", "env": {"HERE": str(tool.parent)}},
        "unknowable": {"command": "${workspaceFolder}/server"},
        "remote": {"url": "https://mcp.example.com/sse"},
        "remote-variable": {"url": "${env:NOBODY_SETS_THIS}/mcp"},
    }
    result = mcp({"mcpServers": servers})
    assert (result.status, result.detail) == ("passed", "mcp.json: 9 servers can be started")


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
    (tmp_path / "mcp.json").write_text('{"mcpServers": {\n  "a": {"command": "sh"},\n}}')
    result = check({"mcp": "mcp.json"})
    assert result.status == "failed"
    assert result.detail.startswith("mcp.json is not valid JSON: line ")
    assert result.diagnostics["next"] == f"python3 -m json.tool {tmp_path}/mcp.json"
