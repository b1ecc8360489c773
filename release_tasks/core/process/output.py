"""Write the output of a command to a log: redacted, limited in size, with the last lines kept in memory."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path

from release_tasks.core.durable import make_private_directory
from release_tasks.core.printable import log_text, output_lines
from release_tasks.core.redact import LONGEST_SECRET, WRAPPED_LINES, Redactor, replaced
from release_tasks.core.redaction.keys import unfinished_key
from release_tasks.core.redaction.views import Span
from release_tasks.core.runner import escape_commands

__all__ = ["OutputLog", "last_lines", "read_log_tail"]

_LOG_BYTES = 16 << 20
_LONG_LINE = 64 << 10
_END_BYTES = 128 << 10  # when the output is larger than the log, the log also has this much of its end
# The beginning of a line end, of a colour, or of a command to the runner of a CI system.
_BEGUN = re.compile(r"(?m)(?:\r|\x1b(?:\[[0-9;:]*)?|^[^\S\n]*:|##?\w{0,9})\Z")
_TAIL_BYTES = 16 << 10
_TAIL_LINES = 20
_TAIL_TEXT = 4 << 10
_FILE_TAIL_BYTES = 8192


class OutputLog:
    """A log file at ``path`` (0600) that gets the first 16 MiB of the output and the last lines.

    The file is safe to show: escapes are visible, and no line of it is a command to the runner of a CI system. A log
    that cannot be written does not stop the gate: ``problem`` is the reason. Memory use does not grow with the
    output.
    """

    def __init__(self, path: Path, redactor: Redactor, max_bytes: int = _LOG_BYTES) -> None:
        self.problem: str | None = None
        self.received = 0
        self.left_out = 0
        self._redactor = redactor
        self._free_bytes = max_bytes
        self._pending = bytearray()
        self._end = bytearray()
        self._tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._unfinished = ""  # the end of the last part, which the next part may go on with
        self._fd: int | None = None
        try:
            make_private_directory(path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            os.fchmod(self._fd, 0o600)
        except OSError as error:
            self._disable(error)

    def write(self, data: bytes) -> None:
        """Add the next part of the output."""
        self.received += len(data)
        if self._free_bytes <= 0:
            self._buffer_end(data)
            return
        self._pending += data
        while self._free_bytes > 0 and (most := self._most_to_cut()):
            pending = bytes(self._pending)
            spans = self._redactor.spans(pending)
            cut = _cut_between(spans, most) or (most if len(pending) >= 2 * _LONG_LINE else 0)
            if not cut:
                break
            self._store(_replaced(pending[:cut], spans))
            # A secret behind the cut may be known only by the words before it.
            safe = pending.rfind(b"\n", 0, max(pending.rfind(b"\n"), 0)) + 1
            self._pending[:] = replaced(pending[cut:], [(a - cut, b - cut) for a, b in spans if a >= cut and b <= safe])
        if self._free_bytes <= 0:
            self._buffer_end(bytes(self._pending))
            self._pending.clear()

    def close(self) -> None:
        """Write the buffered output and close the file."""
        rest = self._pending if self._free_bytes > 0 else self._end
        if self.left_out:
            start = self._first_whole_line(rest)
            self.left_out += start
            note = f"[{self.left_out} bytes were left out here]\n"
            self._store((b"" if self._tail.endswith(b"\n") else b"\n") + note.encode())
            rest = rest[start:]
        self._store(self._redactor.redact(bytes(rest)), is_last=True)
        self._pending, self._end = bytearray(), bytearray()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def tail(self) -> list[str]:
        """Return the last lines without escape sequences: at most 20 lines and 4 KiB."""
        return last_lines(self._tail)

    def _most_to_cut(self) -> int:
        """Return how many pending bytes can be written, at most: all but the last lines, or most of a long line."""
        cut = len(self._pending)
        for _ in range(WRAPPED_LINES):
            cut = self._pending.rfind(b"\n", 0, max(cut - 1, 0)) + 1
        if not cut and len(self._pending) >= _LONG_LINE:
            cut = len(self._pending) - LONGEST_SECRET
        key = unfinished_key(self._pending)
        return cut if key < 0 else min(cut, key)

    def _first_whole_line(self, data: bytearray) -> int:
        """Return the start of the first whole line: the bytes before it may be the second half of a secret."""
        newline = data.find(b"\n")
        if 0 <= newline < len(data) - 1:
            return newline + 1
        spans = self._redactor.spans(bytes(data))
        return min(next((end for start, end in spans if start < LONGEST_SECRET < end), LONGEST_SECRET), len(data))

    def _buffer_end(self, data: bytes) -> None:
        self._end += data[-_END_BYTES:]
        self.left_out += max(len(data) - _END_BYTES, 0)
        surplus = len(self._end) - _END_BYTES
        if surplus > 0:
            self.left_out += surplus
            del self._end[:surplus]

    def _store(self, data: bytes, *, is_last: bool = False) -> None:
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        text = self._unfinished + self._decoder.decode(data, is_last)
        begun = None if is_last else _BEGUN.search(text, text.rfind("\n") + 1)
        end = len(text) if begun is None else begun.start()
        self._unfinished = text[end:]
        shown = escape_commands(log_text(text[:end])).encode()
        self._free_bytes -= len(shown)
        view = memoryview(shown)
        try:
            while view and self._fd is not None:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._disable(error)

    def _disable(self, error: OSError) -> None:
        self.problem = f"the log could not be written: {error.strerror}"
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _cut_between(spans: list[Span], most: int) -> int:
    """Return the last place up to ``most`` that splits no secret; 0 when there is none."""
    return next((start for start, end in spans if start < most < end), most)


def _replaced(data: bytes, spans: list[Span]) -> bytes:
    return replaced(data, [(start, min(end, len(data))) for start, end in spans if start < len(data)])


def last_lines(data: bytes) -> list[str]:
    """Return the last lines of ``data`` as text that is safe to print: at most 20 lines and 4 KiB."""
    lines = output_lines(data)[-_TAIL_LINES:]
    while len(lines) > 1 and sum(len(line) + 1 for line in lines) > _TAIL_TEXT:
        lines.pop(0)
    return [line[-_TAIL_TEXT:] for line in lines]


def read_log_tail(path: Path, start: int = 0) -> list[str]:
    """Return the printable lines in the last 8 KiB of a log, from byte ``start`` on; none if it cannot be read.

    The program that writes the log may have made it larger than its output, or put a pipe in its place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                return []
            begin = max(start, info.st_size - _FILE_TAIL_BYTES - LONGEST_SECRET)
            file.seek(begin)
            data = file.read(_FILE_TAIL_BYTES + LONGEST_SECRET)
    except OSError:
        return []
    data = Redactor.of_process().redact(data.replace(b"\0", b""))  # a hole
    if begin > start or len(data) > _FILE_TAIL_BYTES:  # the first line may begin inside a secret
        data = data[-_FILE_TAIL_BYTES:].partition(b"\n")[2]
    return output_lines(data)
