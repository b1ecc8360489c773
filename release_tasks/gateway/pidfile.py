"""Which process runs a home: the pid file, and how a stale one is seen through."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from attrs import frozen

from release_tasks.core.durable import write_atomic

__all__ = ["PidFile", "children_of", "is_alive", "ticks_of"]

_MODULE = "release_tasks.gateway"


@frozen
class PidFile:
    """One running gateway; its start and boot tell it from a later process of that number.

    Both are None where the system has no /proc. ``port`` is None until the service has bound it.
    """

    pid: int
    start_ticks: int | None
    boot_id: str | None
    host: str
    port: int | None
    started_at: str

    @classmethod
    def of_this_process(cls, host: str, started_at: str) -> PidFile:
        """Return a record of the calling process, without a port."""
        pid = os.getpid()
        return cls(pid, ticks_of(pid), _boot_id(), host, None, started_at)

    @classmethod
    def read(cls, path: Path) -> PidFile | None:
        """Return what the file says, or None when there is none or it makes no sense."""
        try:
            value = json.loads(path.read_bytes())
            record = cls(
                pid=int(value["pid"]),
                start_ticks=None if value.get("startTicks") is None else int(value["startTicks"]),
                boot_id=None if value.get("bootId") is None else str(value["bootId"]),
                host=str(value["host"]),
                port=None if value.get("port") is None else int(value["port"]),
                started_at=str(value["startedAt"]),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        # To kill(2), 0 and negative numbers mean process groups; 1 is never ours to end.
        return record if record.pid > 1 else None

    def write(self, path: Path) -> None:
        """Write it durably, 0600."""
        value = {
            "pid": self.pid,
            "startTicks": self.start_ticks,
            "bootId": self.boot_id,
            "host": self.host,
            "port": self.port,
            "startedAt": self.started_at,
        }
        write_atomic(path, (json.dumps(value) + "\n").encode())

    def is_running(self) -> bool:
        """Whether that very process is still there: same number, same start, and a gateway."""
        if self.boot_id is not None and self.boot_id != _boot_id():
            return False
        if not is_alive(self.pid, self.start_ticks):
            return False
        return self.start_ticks is not None or _MODULE in _command_of(self.pid)

    def remove(self, path: Path) -> None:
        """Remove the file, unless it names another process by now."""
        found = PidFile.read(path)
        if found is None or (found.pid, found.start_ticks) == (self.pid, self.start_ticks):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def is_alive(pid: int, ticks: int | None) -> bool:
    """Whether process ``pid`` runs and, if known, started at ``ticks``; a zombie does not run."""
    fields = _stat_of(pid)
    if fields is not None:
        if ticks is not None and int(fields[19]) != ticks:
            return False
        # The first thread may be a zombie while others still hold the port and the lock.
        return fields[0] not in ("Z", "X") or _has_other_threads(pid)
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _has_other_threads(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def ticks_of(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot, or None where that cannot be had."""
    fields = _stat_of(pid)
    return None if fields is None else int(fields[19])


def children_of(pid: int) -> list[tuple[int, int]]:
    """Return (pid, start ticks) of every process below ``pid``; empty where there is no /proc."""
    parents: dict[int, list[tuple[int, int]]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            fields = _stat_of(int(name)) if name.isdigit() else None
            if fields is not None:
                parents.setdefault(int(fields[1]), []).append((int(name), int(fields[19])))
    found: list[tuple[int, int]] = []
    pending = [pid]
    while pending:
        below = parents.get(pending.pop(), [])
        found += below
        pending += [child for child, _ in below]
    return found


def _stat_of(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (the state) on."""
    with contextlib.suppress(OSError, ValueError):
        # The second field is the program's name in parentheses, and may itself hold any character.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()
    return None


def _boot_id() -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["ps", "-o", "command=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    return ""
