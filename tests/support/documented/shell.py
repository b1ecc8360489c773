"""A persistent shell: variables of one block are set in the next."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

from attrs import frozen

__all__ = ["Answer", "Shell"]

SECONDS = 90.0


@frozen
class Answer:
    """The exit code and the complete output of a command."""

    code: int
    output: str


class Shell:
    """A bash in a project's folder; ``run`` types a command and reads its output."""

    def __init__(self, folder: Path, variables: dict[str, str], scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._typed, self._shown = scratch / "typed.sh", scratch / "shown.txt"
        self._read, write = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[write],
            start_new_session=True,
            text=True,
        )
        self._report = write
        os.close(write)

    def run(self, command: str) -> Answer:
        """Run a command to its end; raise TimeoutError, with the shell and its processes ended."""
        assert self._process.stdin is not None
        self._typed.write_text(command + "\n")
        # The commands must not hold the pipe: a service in the background would keep it open.
        line = f". '{self._typed}' >'{self._shown}' 2>&1 </dev/null {self._report}>&-"
        self._process.stdin.write(f"{line}; echo $? >&{self._report}\n")
        self._process.stdin.flush()
        if not select.select([self._read], [], [], SECONDS)[0]:
            self.close(signal.SIGKILL)
            raise TimeoutError(f"still at work after {SECONDS:g} s: {command}\n{self._shown.read_text()[-2000:]}")
        reported = os.read(self._read, 16)
        if not reported:
            raise AssertionError(f"the shell ended with: {command}\n{self._shown.read_text()[-2000:]}")
        return Answer(int(reported), self._shown.read_text(errors="replace"))

    def close(self, number: int = signal.SIGTERM) -> None:
        """End the shell and its processes in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.kill()
        self._process.communicate()
        with contextlib.suppress(OSError):
            os.close(self._read)
