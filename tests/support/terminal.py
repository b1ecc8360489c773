"""A command line on a pseudo-terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time

from tests.support.invoke_project import InvokeProject

__all__ = ["Shown", "start_on_terminal"]

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Shown:
    """One command line on its own terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.data = b""
        self._master = master
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: the last process that had it open has ended
                break
            self.data += data
        os.close(self._master)

    def wait_for(self, text: str) -> None:
        """Wait until ``text`` was printed."""
        until = time.monotonic() + 60
        while text.encode() not in self.data:
            assert time.monotonic() < until, self.data
            time.sleep(0.01)

    def end(self) -> int:
        """Wait for the end of the command and return the exit code."""
        code = self.process.wait(timeout=90)
        self._thread.join()
        return code

    def lines(self) -> list[str]:
        """Return every line that was ever drawn, without cursor movements and colours."""
        text = _ESCAPES.sub("\r", self.data.decode())
        return [line for line in re.split(r"[\r\n]+", text) if line]


def start_on_terminal(scratch: InvokeProject, words: str, columns: int = 80, **variables: str) -> Shown:
    """Start a command line on a terminal of 30 lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    stored = {k: v for k, v in scratch.variables.items() if k not in ("CI", "NO_COLOR", "LC_ALL", "COLUMNS")}
    environment = {**stored, "TERM": "xterm-256color", "LANG": "C.UTF-8", **variables}
    process = subprocess.Popen(
        [*scratch.command, *words.split()],
        cwd=scratch.root,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    return Shown(process, master)
