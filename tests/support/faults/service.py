"""A service in a process of its own that keeps the database open and writes to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["Service"]

_REPOSITORY = Path(__file__).absolute().parents[3]


class Service:
    """The process of ``database_user.py``; it holds at most one database open at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.support.faults.database_user"],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def open(self, database: Path) -> None:
        """Open a database, commit once and go on writing."""
        self._send(f"open {database}")

    def close_database(self) -> None:
        """Close the database that is open."""
        self._send("close")

    def end(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer == "done\n", f"the service ended: {answer!r}"
