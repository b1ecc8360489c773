"""Gates that check files: path and json."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

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
