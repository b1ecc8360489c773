"""Processes of this machine, through psutil: found by what they have in common wherever they went, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from psutil import Process

__all__ = ["MarkedProcesses", "children_of", "end_processes", "is_running", "opened_below", "start_ticks"]

_POLL_SECONDS = 0.02
_PAUSE_SECONDS = 0.05  # between two searches, when a process may have been missed
_LONGEST_EXEC = 0.2  # seconds that a process may be in the middle of an execve
_LONGEST_KILL = 2.0  # seconds until the kernel has let go of killed processes


@define(eq=False)
class MarkedProcesses:
    """Every process that was started for one purpose; zombies and the calling process do not count.

    A process belongs to it that has ``value`` in its environment variable ``variable``, alone or in a list joined with
    ``:``, or that is in the process group or the session ``group``. So one that forks, changes its group and loses its
    parent is still found. The caller keeps the leader of ``group`` unreaped: while it is a zombie, the kernel gives its
    number to no other process. ``group`` may be set to None later.

    ``since`` is the start of the oldest of them in clock ticks since boot (see ``start_ticks``); a younger process
    without an environment is asked again, because it may be in the middle of an execve. ``searches`` is how often
    ``running`` searches before it returns an empty set: a process that forks during a search, and ends, hides its child
    from that search.
    """

    _variable: str
    _value: str
    group: int | None = None
    _since: int | None = field(default=None, kw_only=True)
    _searches: int = field(default=1, kw_only=True)

    def search(self) -> set[Process]:
        """Search all processes once, and return those that run and belong to it."""
        return self._search()[0]

    def running(self) -> set[Process]:
        """Return those that run; searches again before it returns an empty set."""
        until = time.monotonic() + _LONGEST_EXEC
        number = 0
        while True:
            number += 1
            found, is_unsure = self._search()
            if found or (number >= self._searches and not (is_unsure and time.monotonic() < until)):
                return found
            time.sleep(_PAUSE_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group at once."""
        if self.group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)

    def end(self, patience: float, *, is_asked: bool = True) -> set[Process]:
        """Ask them to end (SIGTERM), wait up to ``patience`` seconds, kill the rest, and return what was killed.

        With ``is_asked`` False they are only waited for, and killed.
        """
        if is_asked:
            self.signal(signal.SIGTERM)
            _send(self.search(), signal.SIGTERM)
        until = time.monotonic() + patience
        while (running := self.running()) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        killed = set(running)
        self.signal(signal.SIGKILL)
        until = time.monotonic() + _LONGEST_KILL
        while running and time.monotonic() < until:
            _send(running, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
            running = self.running()
            killed |= running
        return killed

    def _search(self) -> tuple[set[Process], bool]:
        """Search all processes; also say whether there may be more that cannot be seen yet."""
        import psutil

        found: set[Process] = set()
        is_unsure = False
        for pid in set(psutil.pids()) - {os.getpid()}:
            # It ended meanwhile, or belongs to another user. psutil lets some errors of the kernel through.
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                is_own = self.group is not None and self.group in (os.getpgid(pid), os.getsid(pid))
                if not is_own:
                    environment = process.environ()
                    value = environment.get(self._variable, "")
                    is_own = self._value == value or self._value in value.split(":")
                    if not environment and self._since is not None and (start_ticks(pid) or 0) >= self._since:
                        # Kernel threads and zombies have no memory, and never an environment.
                        is_unsure = is_unsure or process.memory_info().vms > 0
                if is_own and is_running(process):
                    found.add(process)
        return found, is_unsure


def is_running(process: Process | int) -> bool:
    """Say whether a process runs: this very one, or whichever has a number now. A zombie does not run.

    Except for one whose first thread has ended while others still hold its port and its locks.
    """
    import psutil

    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        if not process.is_running():
            return False
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) or process.num_threads() > 1
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OSError):
        return False


def children_of(pid: int) -> list[Process]:
    """Return every process below ``pid``; empty when there is no such process."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).children(recursive=True)
    return []


def end_processes(processes: Iterable[Process], patience: float) -> None:
    """Wait up to ``patience`` seconds until these have ended, and kill the others.

    Not with ``psutil.wait_procs``: it takes the exit code of a child away from its Popen, and it waits for a zombie
    until somebody reaps it.
    """
    left = list(processes)
    for number, seconds in ((None, patience), (signal.SIGKILL, _LONGEST_KILL)):
        if number is not None:
            _send(left, number)
        until = time.monotonic() + seconds
        while (left := [process for process in left if is_running(process)]) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)


def opened_below(processes: Iterable[Process], paths: Iterable[Path]) -> Path | None:
    """Return a file or folder at or below one of ``paths`` that one of ``processes`` has open, or None."""
    import psutil

    watched = [Path(os.path.realpath(path)) for path in paths]
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            for found in map(Path, _opened(process)):
                if any(found == path or path in found.parents for path in watched):
                    return found
    return None


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot, or None where that cannot be had.

    psutil has the same time as seconds since 1970, which changes when somebody sets the clock; this is written into pid
    files and compared by other processes later.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The second field is the program's name in parentheses, and may itself hold any character.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return None


def _opened(process: Process) -> list[str]:
    if sys.platform != "linux":
        return [file.path for file in process.open_files()]
    # psutil leaves out open folders, FIFOs and deleted files, and a service may hold any of them in a live folder.
    links = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(link))
    return links


def _send(processes: Iterable[Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)  # psutil checks first that the number is still this process's
