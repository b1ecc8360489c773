"""Types of the fixtures in tests/conftest.py that make projects, start writers and install plugins."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

from tests.support.project import Project

__all__ = ["InstallKind", "MakeProject", "StartWriter"]


class MakeProject(Protocol):
    """Makes a scratch project in a new folder of the test."""

    def __call__(self, name: str, journal_mode: str = "wal") -> Project: ...


class StartWriter(Protocol):
    """Starts a process that moves money between accounts; ``pause`` is in seconds."""

    def __call__(self, database: Path, journal_mode: str = "wal", pause: float = 0.001) -> subprocess.Popen[str]: ...


class InstallKind(Protocol):
    """Installs a package whose asset kind ``custom`` has the given functions; a second call replaces them."""

    def __call__(
        self,
        capture: str = ...,
        check: str = ...,
        form: str = ...,
        before: str = ...,
        value: str = ...,
        restore: str = ...,
    ) -> None: ...
