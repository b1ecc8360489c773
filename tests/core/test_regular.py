"""A pipe, a device or a folder in place of a file ends in an error at once, and a file has a limit."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.config.mcp_launch import _interpreter_problem
from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.json_file import read_json
from release_tasks.core.regular import read_regular
from release_tasks.gateway.errors import SettingsError
from release_tasks.gateway.settings import read_json_object
from release_tasks.service.request import _require_certificates
from release_tasks.service.response import ProbeError


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


OTHERS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": bind,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reader of a file that a service can exchange gives a message, and does not wait."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("file")
    OTHERS[name](path)
    with pytest.raises(OSError):
        read_regular(path, 10)
    with pytest.raises(InvalidDocument, match=r"app (is not a file|cannot be read)"):
        read_json(path, "app")
    with pytest.raises(SettingsError):
        read_json_object(path)
    with pytest.raises(ProbeError, match="ca_file file cannot be used"):
        _require_certificates(path)
    assert _interpreter_problem(str(path), {}) is None


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    """Also through a link."""
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 4) == b"0123"
    assert read_regular(tmp_path / "file", 100) == b"0123456789"
