"""The mount points of this system: their names cannot be exchanged, so a rollback overwrites their content."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_mount_point", "mounts_below"]


def is_mount_point(path: Path) -> bool:
    """Return whether something is mounted at ``path``; its name can then not be exchanged with another one."""
    try:
        return _escaped(path) in _mount_points()
    except OSError:
        return os.path.ismount(path)


def mounts_below(path: Path) -> list[str]:
    """Return the mount points inside the folder ``path``; none on a system without /proc."""
    inside = _escaped(path) + b"/"
    try:
        return [os.fsdecode(_unescaped(point)) for point in _mount_points() if point.startswith(inside)]
    except OSError:  # a system without /proc
        return []


def _mount_points() -> list[bytes]:
    """Return the mount points with octal escapes for space, tab, newline and backslash: the fifth field of proc(5)."""
    return [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]


_ESCAPES = {b"\\": rb"\134", b" ": rb"\040", b"\t": rb"\011", b"\n": rb"\012"}  # the backslash first


def _escaped(path: Path) -> bytes:
    real = os.fsencode(os.path.realpath(path.parent) + "/" + path.name)
    for plain, escape in _ESCAPES.items():
        real = real.replace(plain, escape)
    return real


def _unescaped(point: bytes) -> bytes:
    for plain, escape in reversed(_ESCAPES.items()):
        point = point.replace(escape, plain)
    return point
