"""Read the content of databases in a child process, within limits of time and memory.

What a service writes into a database can keep SQLite busy for ever (a generated column that builds large values, a
cycle of pages), and a damaged file can crash it. Then the content is unchecked, which is not damage.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import apsw

from release_tasks.assets.sqlite.connection import translated_errors
from release_tasks.assets.sqlite.image import opened_image
from release_tasks.core.canonical import InvalidDocument, parse_object
from release_tasks.core.clock import awake
from release_tasks.core.errors import StageFailed
from release_tasks.core.holes import most_data
from release_tasks.core.interrupt import LONGEST_WAIT
from release_tasks.core.place import trusted
from release_tasks.core.process.command import signal_name
from release_tasks.core.process.python import function_line
from release_tasks.core.units import show_duration

__all__ = ["ContentReader", "ContentUnread", "end_idle"]

# Python starts without its ``site`` module, which takes longer than a small check.
_OPTIONS = ("-I", "-S")
_MEMORY = 1 << 30  # bytes that SQLite may use for one database
_BASE_SECONDS = 10  # of CPU time, for a small database
_BYTES_PER_SECOND = 4 << 20  # slower than any sound check that was measured
_WALL_FACTOR = 3  # the disk may be slow, and other processes use the processor
_MOST_HOLES = 256 << 20  # bytes of holes that count
_MAX_ANSWER = 16 << 20
_READ_BYTES = 1 << 16


class ContentUnread(StageFailed):
    """The content of a database was not read, although it may be sound; ``reason`` continues "the check ..."."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The content of {path} was not read: the check {reason}.")
        self.reason = reason


# Processes that answered their last request and wait for the next block: a start takes longer than most checks.
_idle: list[subprocess.Popen[bytes]] = []
os.register_at_fork(after_in_child=_idle.clear)  # they answer the parent


class ContentReader:
    """A process that reads databases, while the block runs.

    The databases are copies that no process writes.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _idle.append(self._process)
            self._process = None

    def ask(
        self,
        action: str,
        path: Path,
        *,
        reported_as: Path | None = None,
        error_class: type[StageFailed] = StageFailed,
        **options: Any,
    ) -> Any:
        """Return the result of a function of ``content`` for a database.

        Raises ContentUnread when the process does not end within its limits or crashes, and the errors of
        ``translated_errors``, which name ``reported_as`` or else ``path``.
        """
        shown = reported_as or path
        seconds = _BASE_SECONDS + _size_to_read(path) // _BYTES_PER_SECOND
        request = {"action": action, "path": str(path.absolute()), "cpu": seconds, "memory": _MEMORY, **options}
        try:
            answer = parse_object(self._answer(request, shown, seconds), "the answer")
        except InvalidDocument as error:
            self._stop()
            raise ContentUnread(shown, "has too long a result") from error
        except BaseException:
            self._stop()
            raise
        if "unfinished" in answer:
            raise ContentUnread(shown, str(answer["unfinished"]))
        if "unreadable" in answer:
            raise error_class(str(answer["unreadable"]))
        if "error" in answer:
            with translated_errors(trusted(shown), error_class):
                raise _error_of(answer)
        return answer["result"]

    def _answer(self, request: dict[str, Any], shown: Path, seconds: int) -> bytes:
        """Send a request and return the line of the answer."""
        deadline = awake.now() + _WALL_FACTOR * seconds
        try:
            process = self._process = self._process or _take() or _start()
        except (OSError, ValueError) as error:
            raise ContentUnread(shown, f"could not be started ({error})") from error
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the process has exited; its status is the reason
            process.stdin.write(json.dumps(request).encode() + b"\n")
        parts: list[bytes] = []
        size = 0
        output = select.poll()
        output.register(process.stdout, select.POLLIN)
        while not parts or not parts[-1].endswith(b"\n"):
            if awake.now() >= deadline:
                raise ContentUnread(shown, f"did not end within {show_duration(_WALL_FACTOR * seconds)}")
            if not output.poll(LONGEST_WAIT * 1000):
                continue
            part = os.read(process.stdout.fileno(), _READ_BYTES)
            size += len(part)
            if not part:
                raise ContentUnread(shown, _end_of(self._stop(), seconds))
            if size > _MAX_ANSWER:
                raise ContentUnread(shown, "has too long a result")
            parts.append(part)
        return b"".join(parts)

    def _stop(self) -> int:
        """End the process and return its exit code, which is negative for a signal."""
        process, self._process = self._process, None
        return _end(process) if process else 0


def _size_to_read(path: Path) -> int:
    """Return the bytes of a database that a check has to read: it is quick with the pages of a hole."""
    with contextlib.suppress(StageFailed), opened_image(path) as image:
        if image.delta is not None:
            return image.size
    info = os.stat(path)
    return min(info.st_size, most_data(info) + _MOST_HOLES)


def _take() -> subprocess.Popen[bytes] | None:
    """Return a process that waits; None when there is none."""
    with contextlib.suppress(IndexError):
        while process := _idle.pop():
            if process.poll() is None:
                return process
            _end(process)
    return None


def _end(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None and process.stdout is not None
    if process.poll() is None:
        process.kill()
    process.stdin.close()
    process.stdout.close()
    return process.wait()


@atexit.register
def end_idle() -> None:
    """End the processes that wait for the next block."""
    while _idle:
        _end(_idle.pop())


def _start() -> subprocess.Popen[bytes]:
    """Start the process: without secrets of the environment, and in a session that Ctrl-C does not reach."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(("LD_", "DYLD_"))}
    return subprocess.Popen(
        function_line("release_tasks.assets.sqlite.child", _OPTIONS),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        bufsize=0,
        start_new_session=True,
    )


def _end_of(code: int, seconds: int) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"did not end within {show_duration(seconds)} of CPU time"
    return f"crashed ({signal_name(-code)})" if code < 0 else f"ended without a result (exit code {code})"


def _error_of(answer: dict[str, Any]) -> apsw.Error:
    """Return the error of SQLite that the process got."""
    found = getattr(apsw, str(answer["error"]), apsw.Error)
    is_error = isinstance(found, type) and issubclass(found, apsw.Error)
    error: apsw.Error = (found if is_error else apsw.Error)(str(answer["message"]))
    error.extendedresult = int(answer["code"])  # type: ignore[attr-defined]
    return error
