"""A service in a process of its own that keeps the database open and writes to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["Service"]


class Service:
    """Holds at most one database open at a time; see ``writer.py``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("writer.py")
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def open(self, database: Path) -> None:
        """Open it and commit once; it writes on from then."""
        self._tell(f"open {database}")

    def let_go(self) -> None:
        """Close what is open."""
        self._tell("close")

    def end(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer == "done\n", f"the service ended: {answer!r}"
