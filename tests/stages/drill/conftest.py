"""The recorded state of everything that a drill must not change: digests, inodes, modes and times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project


def record_tree(folder: Path, *exclude: Path) -> dict[str, Any]:
    """Return inode, mode, owner, mtime and content of the paths below ``folder``, without the trees in ``exclude``.

    The drill appends to drill-audit.log, so the mtime of its folder is left out.
    """
    found: dict[str, Any] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        if any(path == other or other in path.parents for other in exclude):
            continue
        info = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        is_written_in = any(other.parent == path for other in exclude)
        mtime = None if is_written_in else info.st_mtime_ns
        found[str(path)] = (info.st_ino, info.st_mode, info.st_uid, mtime, info.st_size if content else None, content)
    return found


@pytest.fixture
def live_tree() -> Callable[..., dict[str, Any]]:
    """Return a function that records a whole project, without drill-audit.log and the folder drills/."""

    def record(project: Project, *exclude: Path) -> dict[str, Any]:
        pipeline = project.pipeline
        return record_tree(project.folder, pipeline.drill_audit.path, pipeline.drills, *exclude)

    return record
