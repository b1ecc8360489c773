"""The output of a short command that has a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from attrs import frozen

from release_tasks.core.interrupt import wait_for
from release_tasks.core.units import show_duration

__all__ = ["Answer", "TimedOut", "ask"]

_MAX_OUTPUT = 64 << 10  # bytes that are read of each stream


class TimedOut(ValueError):
    """A command had no result within its time limit; the message names the configuration key ``key``."""

    def __init__(self, command: str, timeout: float, key: str) -> None:
        super().__init__(
            f"{command!r} had no result after {show_duration(timeout)} and was stopped. To allow more time, raise {key}"
        )


@frozen
class Answer:
    """The exit code of a command, negative for a signal, and the first 64 KiB of its output and of its errors."""

    code: int
    output: bytes
    errors: bytes


def ask(
    command: Sequence[str], *, shown: str, cwd: Path, environment: Mapping[str, str], timeout: float, key: str
) -> Answer:
    """Run ``command`` for at most ``timeout`` seconds and return its answer; ``shown`` is its name in messages.

    Raises OSError when it cannot be started, and TimedOut. Then its whole process group was killed.
    """
    # Files, because a process that the command leaves in the background keeps a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )

        def has_ended(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.returncode is not None

        try:
            if not wait_for(has_ended, timeout):
                raise TimedOut(shown, timeout, key)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return Answer(process.returncode, _start_of(output), _start_of(errors))


def _start_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_MAX_OUTPUT)
