"""The processes of a drill, wherever they went: known by the variable in their environment that names its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ROOT_VARIABLE", "end_processes", "is_anything_left", "opened_below", "processes_of"]

ROOT_VARIABLE = "RELEASE_TASKS_DRILL_ROOT"
_PROC = Path("/proc")
_POLL_SECONDS = 0.02
_LONGEST_EXEC = 0.05  # seconds in which a process that calls execve shows no environment
_LOOKS = 3  # a process that forks while /proc is read, and ends, hides its child from that look
_LONGEST_KILL = 2.0


def processes_of(root: Path, group: int | None = None) -> set[int]:
    """Return every process that was started for the drill in ``root``, or that is in ``group``; zombies do not count.

    Without /proc none is found, and the signal to the group has to do.
    """
    mark = os.fsencode(f"{ROOT_VARIABLE}={root}")
    names = os.listdir(_PROC) if _PROC.is_dir() else []
    return {int(name) for name in names if name.isdigit() and _belongs(name, mark, group)}


def is_anything_left(root: Path, group: int | None = None) -> bool:
    """Say whether a process of the drill still runs, this one left out; looks again before it says no."""
    own = {os.getpid()}
    for look in range(_LOOKS):
        if look:
            time.sleep(_LONGEST_EXEC)
        if processes_of(root, group) - own:
            return True
    return False


def end_processes(root: Path, group: int | None = None, patience: float = 10.0) -> None:
    """Ask every process of the drill to end, wait up to ``patience`` seconds, and kill what is left."""
    own = {os.getpid()}
    _signal(processes_of(root, group) - own, signal.SIGTERM)
    _signal_group(group, signal.SIGTERM)
    until = time.monotonic() + patience
    while processes_of(root, group) - own and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    _signal_group(group, signal.SIGKILL)
    until = time.monotonic() + _LONGEST_KILL
    while time.monotonic() < until:
        _signal(processes_of(root, group) - own, signal.SIGKILL)
        if not is_anything_left(root, group):
            return
        time.sleep(_POLL_SECONDS)


def opened_below(processes: Iterable[int], paths: Iterable[Path]) -> Path | None:
    """Return a file at or below one of ``paths`` that one of ``processes`` has open, or None."""
    watched = [Path(os.path.realpath(path)) for path in paths]
    for pid in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(_PROC / str(pid) / "fd"):
                with contextlib.suppress(OSError):
                    found = Path(os.readlink(_PROC / str(pid) / "fd" / name))
                    if any(found == path or path in found.parents for path in watched):
                        return found
    return None


def _belongs(name: str, mark: bytes, group: int | None) -> bool:
    try:
        fields = (_PROC / name / "stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return False
        if group is not None and group in (int(fields[2]), int(fields[3])):  # its process group, its session
            return True
        return mark in (_PROC / name / "environ").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _signal_group(group: int | None, number: signal.Signals) -> None:
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
