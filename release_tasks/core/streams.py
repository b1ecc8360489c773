"""The standard streams of this process, and streams that a closed terminal or a full disk cannot turn into an error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

__all__ = ["Wrapper", "error_tolerant", "open_standard_streams"]


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed, and let no write to stdout or stderr raise.

    Otherwise the next file that is opened, for instance a database, gets its number, and output of other code goes
    into that file. Invoke and tasks of the project print too: a stream that is gone would change their exit code.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, error_tolerant(stream))


def error_tolerant(stream: IO[str]) -> IO[str]:
    """Return a wrapper of ``stream`` that raises nothing when the terminal or the reader is gone, or the disk is full.

    It replaces characters that the encoding of the stream does not have.
    """
    return stream if isinstance(stream, _ErrorTolerant) else cast("IO[str]", _ErrorTolerant(stream))


class Wrapper:
    """A stream that passes everything to another stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)


class _ErrorTolerant(Wrapper):
    """Drops output that cannot be written, so that the stage continues."""

    def write(self, text: str) -> int:
        with self._ignored():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._ignored():
            self._stream.flush()

    @contextlib.contextmanager
    def _ignored(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # the stream is closed
            pass
        except OSError:
            # The unwritten output stays in a buffer; flushing it at exit would end the program with 120.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
