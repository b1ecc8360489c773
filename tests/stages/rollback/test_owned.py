"""While a database is open for a restore by page, nothing else in this process opens its file."""

from __future__ import annotations

import os
import traceback
from typing import Any

import pytest

from release_tasks.assets.sqlite import owners
from tests.support.project import MakeProject
from tests.support.rollback import roll_back


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_no_descriptor_of_an_owned_database_is_opened(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Its end would drop the locks of this process; SQLite itself opens the file through its own calls."""
    project = make_project("owned", mode)
    project.overrides["storage.restore_by_page"] = True
    project.capture()
    project.damage()
    database = os.stat(project.database)
    inode, opened = (database.st_dev, database.st_ino), list[str]()
    real = os.open

    def watched(path: Any, *arguments: Any, **named: Any) -> int:
        fd = real(path, *arguments, **named)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) == inode and inode in owners._owners:
            stack = "".join(traceback.format_stack(limit=12)[:-1])
            if "system_calls.py" not in stack:
                opened.append(stack)
        return fd

    monkeypatch.setattr(os, "open", watched)
    assert roll_back(project).status == "restored"
    assert opened == [], opened[0]
