"""Find the processes that code of this process starts, and pass a signal on to them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from release_tasks.core.process.command import COMMAND_MARK
from release_tasks.core.process.find import MarkedProcesses, children_of, is_running, start_ticks

if TYPE_CHECKING:
    from psutil import Process

__all__ = ["StartedProcesses", "started_processes"]

_LONGEST_END = 0.2  # seconds in which a process ends at a signal


@contextlib.contextmanager
def started_processes() -> Iterator[StartedProcesses]:
    """Yield the processes that the block starts; meanwhile the environment has a mark that they inherit."""
    outer = os.environ.get(COMMAND_MARK)
    mark = uuid.uuid4().hex
    os.environ[COMMAND_MARK] = f"{outer}:{mark}" if outer else mark
    try:
        yield StartedProcesses(COMMAND_MARK, mark, since=_ticks_now())
    finally:
        if outer is None:
            os.environ.pop(COMMAND_MARK, None)
        else:
            os.environ[COMMAND_MARK] = outer


class StartedProcesses(MarkedProcesses):
    """The running processes that this process started since a moment, directly or through other processes.

    A process that moved to a session of its own is not included: it detached on purpose, as a daemon does. The session
    of a pseudo-terminal that a child opened is included.
    """

    def pass_on(self, number: signal.Signals) -> int:
        """Send a signal to each process, and return their number.

        Ctrl-C and Ctrl-\\ at a terminal reach the process group of this process without help, and some programs give up
        their work at the second one. A process that ignores the signal gets SIGTERM: a shell starts its background
        commands with SIGINT and SIGQUIT ignored.
        """
        found = self.search()
        group = os.getpgrp() if self._has_reached_group(number) else None
        for process in found:
            with contextlib.suppress(OSError):
                if _is_in_mask("SigIgn", process.pid, number):
                    os.kill(process.pid, signal.SIGTERM)
                elif os.getpgid(process.pid) != group:
                    os.kill(process.pid, number)
        return len(found)

    def _has_reached_group(self, number: int) -> bool:
        """Return whether the terminal sent the signal to the whole group, and not ``kill`` to this process alone.

        A process of the group that would have ended at the signal, and has not, did not get it.
        """
        if not _may_come_from_terminal(number):
            return False
        time.sleep(_LONGEST_END)
        return not any(_has_default_action(process.pid, number) for process in self.search())

    def _search(self) -> tuple[set[Process], bool]:
        session, since = os.getsid(0), self._since or 0
        marked, is_uncertain = super()._search()
        found = {process for process in marked if _session_of(process) == session}
        for process in children_of(os.getpid()):
            is_attached = _session_of(process) == session or _has_terminal(process)
            if is_attached and (start_ticks(process.pid) or 0) >= since and is_running(process):
                found.add(process)
        return found, is_uncertain


def _ticks_now() -> int | None:
    """Return the time since boot in clock ticks, as ``start_ticks`` counts it, or None where it does not."""
    if sys.platform != "linux":
        return None
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _session_of(process: Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(process.pid)
    return None


def _has_terminal(process: Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return process.terminal() is not None
    return False


def _may_come_from_terminal(number: int) -> bool:
    """Return whether the terminal sends this signal, and would send it to this process group."""
    if number not in (signal.SIGINT, signal.SIGQUIT):
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _has_default_action(pid: int, number: int) -> bool:
    """Return whether the process ``pid``, in the group of this process, would end at the signal immediately."""
    with contextlib.suppress(OSError):
        is_member = sys.platform == "linux" and os.getpgid(pid) == os.getpgrp()
        return is_member and not any(_is_in_mask(mask, pid, number) for mask in ("SigIgn", "SigCgt", "SigBlk"))
    return False


def _is_in_mask(mask: str, pid: int, number: int) -> bool:
    """Return whether the signal is in a mask of ``/proc/PID/status``; False without that file."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{mask}:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
