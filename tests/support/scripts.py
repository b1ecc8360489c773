"""Python processes that a test starts, waits for and ends: scripts, and services that keep a database open."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["DatabaseClient", "Scripts", "StartService", "locked_database"]

_DATABASE_CLIENT = """
import json, sqlite3, sys
path = sys.argv[1]
old = sqlite3.connect(path, timeout=30, isolation_level=None)
old.execute("SELECT count(*) FROM sqlite_master").fetchone()
print("ready", flush=True)
for line in sys.stdin:
    which, statement = json.loads(line)
    try:
        database = old if which == "old" else sqlite3.connect(path, timeout=30, isolation_level=None)
        answer = database.execute(statement).fetchall()
        if which != "old":
            database.close()
    except sqlite3.Error as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
old.close()
"""

_LOCKED_DATABASE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(sys.argv[2])
database.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.readline()
"""


class Scripts:
    """Starts Python scripts that print ``ready``, and kills those that still run when the test ends."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script and return its process once the script has printed ``ready``."""
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def close(self) -> None:
        """Kill every process that still runs."""
        for process in self._processes:
            process.kill()
            process.wait(timeout=30)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class DatabaseClient:
    """A service that opens its database once and keeps the connection; ``ask`` runs a statement in the service."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _DATABASE_CLIENT, str(self.database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ask(self, statement: str, connection: str = "old") -> Any:
        """Return the rows of a statement, by the open connection (``old``) or by a new one (``new``)."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([connection, statement]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def restart(self) -> None:
        """Stop the service and start it anew."""
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        """End the service, which closes its database."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def crash(self) -> None:
        """Kill the service: the database is not closed, and the WAL stays."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait(timeout=30)
        self.process.stdin.close()
        self.process.stdout.close()


StartService: TypeAlias = Callable[[Path], DatabaseClient]


@contextlib.contextmanager
def locked_database(path: Path, pragma: str) -> Iterator[None]:
    """Keep a database exclusively locked by another process while the block runs; ``pragma`` is executed first."""
    scripts = Scripts()
    holder = scripts.start(_LOCKED_DATABASE, str(path), pragma)
    try:
        yield
    finally:
        holder.communicate("\n", timeout=10)
        scripts.close()
