"""What the rollback's tests share: one call to roll back, the audit log, a tree with its bytes, a service at work."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from tests.support.project import Project

SERVICE = """
import json, sqlite3, sys
path = sys.argv[1]
old = sqlite3.connect(path, timeout=30, isolation_level=None)
old.execute("SELECT count(*) FROM sqlite_master").fetchone()
print("open", flush=True)
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


class Service:
    """A process that opened its database once and keeps that connection; ``ask`` runs a statement in it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(self.database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "open"
        return process

    def ask(self, statement: str, connection: str = "old") -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([connection, statement]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def restart(self) -> None:
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def crash(self) -> None:
        """End without closing the database, as SIGKILL does."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait(timeout=30)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start_service() -> Iterator[Callable[[Path], Service]]:
    """Return a starter of processes that hold a database open and answer over a pipe."""
    running: list[Service] = []

    def start(database: Path) -> Service:
        running.append(Service(database))
        return running[-1]

    yield start
    for service in running:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture
def roll() -> Callable[..., RollbackOutcome]:
    """Return the rollback in one call: ``roll(project, "v1_snapshot", force=True)``."""

    def call(
        project: Project,
        snapshot_id: str | None = None,
        *,
        health_url: str | None = None,
        restart_command: str | None = None,
        **flags: Any,
    ) -> RollbackOutcome:
        release = project.settings.release
        health = evolve(release.health, url=health_url or release.health.url)
        restart = evolve(release.restart, command=restart_command or release.restart.command)
        settings = evolve(project.settings, release=evolve(release, health=health, restart=restart))
        return rollback(settings, RollbackRequest(snapshot_id=snapshot_id, **flags))

    return call


@pytest.fixture
def events() -> Callable[[Any], list[tuple[str, str]]]:
    """Return a reader of the audit log: (event, status) of each record; fails when the chain does not hold."""

    def read(project: Project) -> list[tuple[str, str]]:
        verdict = project.pipeline.audit.verify(project.pipeline.anchors())
        assert verdict.intact, verdict.problems
        return [(event["event"], event["status"]) for event in verdict.events]

    return read


@pytest.fixture
def tree() -> Callable[[Path], dict[str, Any]]:
    """Return a listing of everything below a folder: kind, mode, inode, bytes or link target."""

    def listing(root: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(root.rglob("*")):
            info = os.lstat(path)
            kept: Any = None
            if stat.S_ISREG(info.st_mode):
                kept = (path.read_bytes(), info.st_mtime_ns)
            elif stat.S_ISLNK(info.st_mode):
                kept = os.readlink(path)
            found[str(path.relative_to(root))] = (info.st_mode, info.st_ino, kept)
        return found

    return listing
