"""The programs that are compared. Each saves the live state, restores a saved one, and tells its version.

A program returns when its data is on disk: the peers are followed by a flush of the filesystem, and that is part of
their time. Each begins a round with an empty repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from tests.bench.table.state import CONFIGS, State

__all__ = ["PLAIN", "Borg", "Ours", "Plain", "Program", "Restic", "disk_use", "installed"]

PLAIN = "`.backup` + `cp -a`"
SECRETS = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


class Program(Protocol):
    """One program and its repository in the folder of a state."""

    name: str
    repository: Path

    def clear(self) -> None:
        """Remove the repository, and create an empty one."""

    def save(self) -> None:
        """Save the live state once more."""

    def return_to_saved(self) -> None:
        """Save the live state, then restore what the last ``save`` stored, as an operator does."""


def disk_use(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk; a file with two names counts once."""
    files = {}
    for path in folder.rglob("*"):
        found = path.lstat()
        files[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(files.values())


class _Repository:
    command: str  # the command that must be installed
    name: str
    folder: str

    def __init__(self, state: State) -> None:
        self.state = state
        self.repository = state.folder / self.folder
        self.restored = state.folder / f"{self.folder}-restored"
        self.environment = {**os.environ, **SECRETS, "HOME": str(state.folder)}
        self.saved = 0

    def run(self, *words: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd or self.state.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def flush(self) -> None:
        self.run("sync", "-f", self.state.folder)

    def clear(self) -> None:
        shutil.rmtree(self.repository, ignore_errors=True)
        self.saved = 0

    def empty_restored(self) -> Path:
        shutil.rmtree(self.restored, ignore_errors=True)
        self.restored.mkdir()
        return self.restored


class Ours(_Repository):
    """release-tasks: whole commands, start of Python included; the restore changes the live state."""

    name = "release-tasks"
    folder = "pipeline"

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.snapshot = ""
        self.outcome: dict[str, Any] = {}  # what the last rollback printed with --json

    def command_line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "invoke", *words, "--json"]

    def save(self) -> None:
        self.saved += 1
        prepared = json.loads(self.run(*self.command_line("release.prepare", "--release-id", f"r{self.saved}")))
        self.snapshot = prepared["snapshot"]["snapshotId"]

    def return_to_saved(self) -> None:
        self.outcome = json.loads(self.run(*self.command_line(*self.rollback())))
        assert self.outcome["status"] == "restored", self.outcome

    def rollback(self) -> list[str]:
        """Force: a restore of the same snapshot as before would else be a noop, so that no later write is lost."""
        return ["release.rollback", "--snapshot", self.snapshot, "--force"]

    def verify(self) -> None:
        self.run(*self.command_line("release.verify", "--snapshot", self.snapshot))


class Plain(_Repository):
    """``sqlite3 .backup`` and ``cp -a``; every copy is whole, and the restore goes to another folder."""

    command = "sqlite3"
    name = PLAIN
    folder = "plain"

    def clear(self) -> None:
        super().clear()
        self.repository.mkdir()

    def save(self) -> None:
        self.saved += 1
        copy = self.repository / str(self.saved)
        copy.mkdir()
        live = self.state.live
        self.run("sqlite3", "-cmd", ".timeout 60000", self.state.database, f".backup {copy}/app.db")
        self.run("cp", "-a", live / "identity", *(live / f"config-{number}.json" for number in range(CONFIGS)), copy)
        self.flush()

    def return_to_saved(self) -> None:
        target = self.repository / str(self.saved)
        self.save()
        self.run("cp", "-a", target, self.empty_restored())
        self.flush()


class Restic(_Repository):
    """restic with its default settings; the restore goes to another folder."""

    command = "restic"
    name = "restic"
    folder = "restic"

    def clear(self) -> None:
        super().clear()
        self.run("restic", "-q", "-r", self.repository, "init")

    def save(self) -> None:
        self.saved += 1
        self.run("restic", "-q", "-r", self.repository, "backup", "--tag", f"t{self.saved}", self.state.live)
        self.flush()

    def return_to_saved(self) -> None:
        tag = f"t{self.saved}"
        self.save()
        target = self.empty_restored()
        self.run("restic", "-q", "-r", self.repository, "restore", "latest", "--tag", tag, "--target", target)
        self.flush()


class Borg(_Repository):
    """borg without encryption; the restore goes to another folder."""

    command = "borg"
    name = "borg"
    folder = "borg"

    def clear(self) -> None:
        super().clear()
        self.run("borg", "init", "-e", "none", self.repository)

    def save(self) -> None:
        self.saved += 1
        self.run("borg", "create", f"{self.repository}::a{self.saved}", self.state.live)
        self.flush()

    def return_to_saved(self) -> None:
        archive = f"{self.repository}::a{self.saved}"
        self.save()
        self.run("borg", "extract", archive, cwd=self.empty_restored())
        self.flush()


def installed(state: State) -> list[Program]:
    """Return the peers that are installed here, then release-tasks: its restore changes what the peers would save."""
    peers: list[type[_Repository]] = [Plain, Restic, Borg]
    return [kind(state) for kind in peers if shutil.which(kind.command)] + [Ours(state)]  # type: ignore[return-value]
