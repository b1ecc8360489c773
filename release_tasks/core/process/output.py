"""The output of a command on its way to the log: redacted, capped, its last lines kept at hand."""

from __future__ import annotations

import os
from pathlib import Path

from release_tasks.core.durable import make_private_directory
from release_tasks.core.printable import output_lines
from release_tasks.core.redact import Redactor

__all__ = ["OutputLog", "end_of_file", "last_lines"]

_KEPT_BYTES = 16 << 20
_LONG_LINE = 64 << 10
_OVERLAP = 16 << 10  # a secret is shorter than this
_END_BYTES = 128 << 10  # of what is left out, this much of the end is kept after all
_TAIL_BYTES = 16 << 10
_TAIL_LINES = 20
_TAIL_TEXT = 4 << 10
_CUT_ATTEMPTS = 4
_FILE_TAIL_BYTES = 8192


class OutputLog:
    """Takes output in pieces and writes it to ``path`` (0600): the first 16 MiB and the last lines.

    A file that cannot be written never stops a gate: ``problem`` says why. Memory does not grow
    with the output.
    """

    def __init__(self, path: Path, redactor: Redactor, kept_bytes: int = _KEPT_BYTES) -> None:
        self.problem: str | None = None
        self.received = 0
        self.left_out = 0
        self._redactor = redactor
        self._room = kept_bytes
        self._pending = bytearray()
        self._end = bytearray()
        self._tail = b""
        self._fd: int | None = None
        try:
            make_private_directory(path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            os.fchmod(self._fd, 0o600)
        except OSError as error:
            self._give_up(error)

    def write(self, data: bytes) -> None:
        """Take the next piece of output."""
        self.received += len(data)
        if self._room <= 0:
            self._keep_end(data)
            return
        self._pending += data
        while self._room > 0 and (cut := self._next_cut()):
            self._store(self._redactor.redact(bytes(self._pending[:cut])))
            del self._pending[:cut]
        if self._room <= 0:
            self._keep_end(bytes(self._pending))
            self._pending.clear()

    def close(self) -> None:
        """Write what is still held back and close the file."""
        rest = self._pending if self._room > 0 else self._end
        if self.left_out:
            start = self._first_whole(rest)
            self.left_out += start
            note = f"[{self.left_out} bytes were left out here]\n"
            self._store((b"" if self._tail.endswith(b"\n") else b"\n") + note.encode())
            rest = rest[start:]
        self._store(self._redactor.redact(bytes(rest)))
        self._pending, self._end = bytearray(), bytearray()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def tail(self) -> list[str]:
        """Return the last lines, at most 20 and 4 KiB, without escape sequences."""
        return last_lines(self._tail)

    def _next_cut(self) -> int:
        """Return how much of what is pending can go: whole lines, or most of a long one."""
        after_newline = self._pending.rfind(b"\n") + 1
        if after_newline or len(self._pending) < _LONG_LINE:
            return after_newline
        for attempt in range(1, _CUT_ATTEMPTS):
            cut = len(self._pending) - attempt * _OVERLAP
            if self._is_clean_cut(self._pending, cut):
                return cut
        return len(self._pending) - _OVERLAP

    def _is_clean_cut(self, data: bytearray, cut: int) -> bool:
        """Say whether no secret lies across ``cut``: both sides alone are redacted as together."""
        before, after = bytes(data[max(cut - _OVERLAP, 0) : cut]), bytes(data[cut : cut + _OVERLAP])
        redact = self._redactor.redact
        return redact(before + after) == redact(before) + redact(after)

    def _first_whole(self, data: bytearray) -> int:
        """Return where the first whole line starts: what is before may begin inside a secret."""
        newline = data.find(b"\n")
        if 0 <= newline < len(data) - 1:
            return newline + 1
        starts = [attempt * _OVERLAP for attempt in range(1, _CUT_ATTEMPTS)]
        clean = (start for start in starts if self._is_clean_cut(data, start))
        return min(next(clean, starts[-1]), len(data))

    def _keep_end(self, data: bytes) -> None:
        self._end += data[-_END_BYTES:]
        self.left_out += max(len(data) - _END_BYTES, 0)
        surplus = len(self._end) - _END_BYTES
        if surplus > 0:
            self.left_out += surplus
            del self._end[:surplus]

    def _store(self, data: bytes) -> None:
        self._room -= len(data)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        view = memoryview(data)
        try:
            while view and self._fd is not None:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = f"the log could not be written: {error.strerror}"
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def last_lines(data: bytes) -> list[str]:
    """Return the last lines of ``data`` as text that is safe to print: at most 20 and 4 KiB."""
    lines = output_lines(data)[-_TAIL_LINES:]
    while len(lines) > 1 and sum(len(line) + 1 for line in lines) > _TAIL_TEXT:
        lines.pop(0)
    return [line[-_TAIL_TEXT:] for line in lines]


def end_of_file(path: Path, start: int = 0) -> list[str]:
    """Return the lines in the last 8 KiB of a log, from byte ``start`` on; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, os.fstat(file.fileno()).st_size - _FILE_TAIL_BYTES))
            return file.read(_FILE_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
