"""The shared memory of a live database, which another process can cut while SQLite uses it.

Every process that has a WAL database open maps its ``-shm``. When one cuts the file, an access to a page behind the new
end is a SIGBUS, which ends a process. In a run as root, where the other process can be an attacker, a handler puts an
empty page in the place of the missing one and marks the database as cut: SQLite goes on, must write nothing any more
(``system_calls``), and what it has read is discarded. An empty index of the WAL has no frames, so no loop of SQLite
depends on it.

SQLite accesses the pages outside Python and outside the allocator, so the handler may run Python code.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from release_tasks.core.interrupt import deferring_signals

__all__ = ["CutFiles"]

_MAP_FIXED = 0x10
_BUS_ADRERR = 2  # an access to a page that the file does not have
_SA_SIGINFO = 4
_SUFFIX = "-shm"
_DELETED = " (deleted)"
_IS_KNOWN = sys.platform.startswith("linux") and ctypes.sizeof(ctypes.c_void_p) == 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


class _Info(ctypes.Structure):
    """The start of siginfo_t on Linux with pointers of 64 bits (sigaction(2))."""

    _fields_ = (
        ("number", ctypes.c_int),
        ("error", ctypes.c_int),
        ("code", ctypes.c_int),
        ("address", ctypes.c_void_p),
    )


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_Info), ctypes.c_void_p)


class _Action(ctypes.Structure):
    """The struct sigaction of the C library on Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class CutFiles:
    """The handler of the signal. ``mark`` gets the path of each shared memory that was cut.

    Handles the signal on Linux with pointers of 64 bits only. Any other SIGBUS has the effect that it had before.
    """

    def __init__(self, mark: Callable[[str], None]) -> None:
        self._mark = mark
        self._users = 0
        self._lock = threading.Lock()
        self._former = _Action()
        self._callback = _HANDLER(self._handle)

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signal while the block runs, in every thread."""
        self._use(1)
        try:
            yield
        finally:
            self._use(-1)

    def _use(self, change: int) -> None:
        with self._lock:
            was_used, self._users = self._users > 0, self._users + change
            if not _IS_KNOWN or was_used == (self._users > 0):
                return
            if was_used:
                _libc.sigaction(int(signal.SIGBUS), ctypes.byref(self._former), None)
            else:
                address = ctypes.cast(self._callback, ctypes.c_void_p).value
                action = _Action(handler=address, flags=_SA_SIGINFO)
                _libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(self._former))

    @deferring_signals
    def _handle(self, number: int, info: ctypes._Pointer[_Info], _: int | None) -> None:
        address = info.contents.address or 0
        path = _mapped_file(address) if info.contents.code == _BUS_ADRERR else ""
        start = address - address % mmap.PAGESIZE
        access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        if path.endswith(_SUFFIX) and _libc.mmap(start, mmap.PAGESIZE, access, kind, -1, 0) == start:
            self._mark(path)
        else:
            _libc.sigaction(number, ctypes.byref(self._former), None)
            os.kill(os.getpid(), number)


def _mapped_file(address: int) -> str:
    """Return the path of the file that is mapped at an address, as the kernel writes it; empty without one."""
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        for line in maps:
            fields = os.fsdecode(line.rstrip(b"\n")).split(None, 5)
            start, end = (int(number, 16) for number in fields[0].split("-"))
            if start <= address < end:
                return fields[5].removesuffix(_DELETED) if len(fields) > 5 else ""
    return ""
