"""Find processes through psutil by a mark in their environment, and terminate them."""

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

from release_tasks.core.clock import awake

if TYPE_CHECKING:
    from psutil import Process

__all__ = ["MarkedProcesses", "children_of", "find_open_path", "is_running", "start_ticks", "wait_or_kill"]

_POLL_SECONDS = 0.02
_PAUSE_SECONDS = 0.05  # between two searches, when a process may have been missed
_LONGEST_EXEC = 0.2  # seconds that a process may be in the middle of an execve
_LONGEST_KILL = 2.0  # seconds until the kernel has removed killed processes


@define(eq=False)
class MarkedProcesses:
    """The running processes that have one mark. Zombies and the calling process are not included.

    A process has the mark when its environment variable ``variable`` contains ``value``, alone or in a list joined with
    ``:``, or when it is in the process group or the session ``group``. A process that forks, changes its group and
    loses its parent is therefore still found. The caller does not reap the leader of ``group``: while the leader is a
    zombie, the kernel gives its number to no other process. ``group`` may be set to None later.

    ``since`` is the start of the first marked process in clock ticks since boot (see ``start_ticks``). A younger
    process without an environment is checked again, because it may be in the middle of an execve. ``searches`` is the
    number of searches before ``running`` returns an empty set: a process that forks during a search and then exits
    hides its child from that search.
    """

    _variable: str
    _value: str
    group: int | None = None
    _since: int | None = field(default=None, kw_only=True)
    _searches: int = field(default=1, kw_only=True)

    def search(self) -> set[Process]:
        """Search all processes once, and return the running processes that have the mark."""
        return self._search()[0]

    def running(self) -> set[Process]:
        """Return the running processes that have the mark. Searches again before it returns an empty set."""
        deadline = awake.now() + _LONGEST_EXEC
        searches = 0
        while True:
            searches += 1
            found, is_uncertain = self._search()
            if found or (searches >= self._searches and not (is_uncertain and awake.now() < deadline)):
                return found
            time.sleep(_PAUSE_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group ``group``."""
        if self.group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)

    def terminate(self, grace_period: float, *, with_sigterm: bool = True) -> set[Process]:
        """Send SIGTERM, wait up to ``grace_period`` seconds, kill the processes that still run, and return those.

        With ``with_sigterm`` False, no SIGTERM is sent.
        """
        if with_sigterm:
            self.signal(signal.SIGTERM)
            _send(self.search(), signal.SIGTERM)
        deadline = awake.now() + grace_period
        while (running := self.running()) and awake.now() < deadline:
            time.sleep(_POLL_SECONDS)
        killed = set(running)
        self.signal(signal.SIGKILL)
        deadline = awake.now() + _LONGEST_KILL
        while running and awake.now() < deadline:
            _send(running, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
            running = self.running()
            killed |= running
        return killed

    def _search(self) -> tuple[set[Process], bool]:
        """Search all processes once; the second value is True when the search may have missed a process."""
        import psutil

        found: set[Process] = set()
        is_uncertain = False
        for pid in set(psutil.pids()) - {os.getpid()}:
            # The process exited meanwhile, or belongs to another user. psutil passes some OSErrors of the kernel on.
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                is_marked = self.group is not None and self.group in (os.getpgid(pid), os.getsid(pid))
                if not is_marked:
                    environment = process.environ()
                    value = environment.get(self._variable, "")
                    is_marked = self._value == value or self._value in value.split(":")
                    if not environment and self._since is not None and (start_ticks(pid) or 0) >= self._since:
                        # Kernel threads and zombies have no memory, and never an environment.
                        is_uncertain = is_uncertain or process.memory_info().vms > 0
                if is_marked and is_running(process):
                    found.add(process)
        return found, is_uncertain


def is_running(process: Process | int) -> bool:
    """Return whether ``process`` is running.

    For a number: whether a process with that number exists now and is running.

    A zombie is not running, unless other threads of it still have its port and its locks.
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
    """Return every descendant of the process ``pid``; an empty list when there is no such process."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).children(recursive=True)
    return []


def wait_or_kill(processes: Iterable[Process], grace_period: float) -> None:
    """Wait up to ``grace_period`` seconds until the processes have exited, and kill the others.

    ``psutil.wait_procs`` is not used: it takes the exit code of a child from the child's Popen, and it waits for a
    zombie until the parent reaps it.
    """
    running = list(processes)
    for number, seconds in ((None, grace_period), (signal.SIGKILL, _LONGEST_KILL)):
        if number is not None:
            _send(running, number)
        deadline = awake.now() + seconds
        while (running := [process for process in running if is_running(process)]) and awake.now() < deadline:
            time.sleep(_POLL_SECONDS)


def find_open_path(processes: Iterable[Process], paths: Iterable[Path]) -> Path | None:
    """Return a file or folder at or below one of ``paths`` that one of ``processes`` has open, or None."""
    import psutil

    real_paths = [Path(os.path.realpath(path)) for path in paths]
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            for found in map(Path, _open_paths(process)):
                if any(found == path or path in found.parents for path in real_paths):
                    return found
    return None


def start_ticks(pid: int) -> int | None:
    """Return the start of the process ``pid`` in clock ticks since boot, or None when the system does not have it.

    psutil has the same time as seconds since 1970, and that value changes when the clock is set. The ticks are written
    to pid files, and other processes compare them later.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The second field is the program's name in parentheses, and may contain any character.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return None


def _open_paths(process: Process) -> list[str]:
    if sys.platform != "linux":
        return [file.path for file in process.open_files()]
    # psutil omits open folders, FIFOs and deleted files, and a service may have any of them open in a live folder.
    links = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(link))
    return links


def _send(processes: Iterable[Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)  # psutil checks first that the pid still belongs to this process
