"""Listings of folders, to be compared before and after a command."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["FileTree", "contents", "file_tree", "listing", "make_socket"]

# Relative path -> mode, inode, modification time of a file, and bytes or link target.
FileTree: TypeAlias = dict[str, tuple[int, int, int | None, bytes | str | None]]


def listing(root: Path) -> dict[str, Any]:
    """Return all paths at and below a folder with mode, inode, owner, time, and bytes or link target."""
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = os.lstat(path)
        content = _content(path, info)
        found[str(path.relative_to(root))] = (info.st_mode, info.st_ino, info.st_uid, info.st_mtime_ns, content)
    return found


def contents(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Return all paths below a folder with mode, and bytes or link target."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in sorted(root.rglob("*")):
        info = os.lstat(path)
        found[str(path.relative_to(root))] = (info.st_mode, _content(path, info))
    return found


def file_tree(root: Path) -> FileTree:
    """Return all paths below a folder with mode, inode, time of files, and bytes or link target.

    The times of folders are left out: SQLite and a lock file change them without any change that counts.
    """
    found: FileTree = {}
    for path in sorted(root.rglob("*")):
        info = os.lstat(path)
        modified = info.st_mtime_ns if stat.S_ISREG(info.st_mode) else None
        found[str(path.relative_to(root))] = (info.st_mode, info.st_ino, modified, _content(path, info))
    return found


def _content(path: Path, info: os.stat_result) -> bytes | str | None:
    if stat.S_ISREG(info.st_mode):
        return path.read_bytes()
    return os.readlink(path) if stat.S_ISLNK(info.st_mode) else None


def make_socket(path: Path) -> None:
    """Make a socket file. Through /proc, because the path of a socket has at most 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
