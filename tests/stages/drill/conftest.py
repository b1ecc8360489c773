"""What is live, photographed: digests, inodes, modes and times of everything that a drill must not touch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project


def photograph(folder: Path, *besides: Path) -> dict[str, Any]:
    """Every path below ``folder`` with inode, mode, owner, mtime and content, but for ``besides`` and what is in them.

    The folder that holds drill-audit.log has its listing changed by that, so its own mtime is left out.
    """
    found: dict[str, Any] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        if any(path == other or other in path.parents for other in besides):
            continue
        info = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        is_written_in = any(other.parent == path for other in besides)
        mtime = None if is_written_in else info.st_mtime_ns
        found[str(path)] = (info.st_ino, info.st_mode, info.st_uid, mtime, info.st_size if content else None, content)
    return found


@pytest.fixture
def live_tree() -> Callable[..., dict[str, Any]]:
    """Return a function that photographs a whole project; only drill-audit.log and the folder drills/ may differ."""

    def take(project: Project, *besides: Path) -> dict[str, Any]:
        pipeline = project.pipeline
        return photograph(project.folder, pipeline.drill_audit.path, pipeline.drills, *besides)

    return take
