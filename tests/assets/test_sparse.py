"""Files that are nearly all hole: their digest would take years, and no command reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from release_tasks.assets.files import Gaps, capture_file, scan_file
from release_tasks.assets.trees import capture_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted


def make_sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def test_a_file_of_terabytes_of_holes_is_refused(tmp_path: Path) -> None:
    """A capture and a comparison say which file it is."""
    file = make_sparse(tmp_path / "log", 8 << 40)
    with pytest.raises(StageFailed, match=r"log is not read: it has a hole of 8\.0 TiB"):
        capture_file(trusted(file), trusted(tmp_path / "copy"))
    with pytest.raises(StageFailed, match="log is not read"):
        scan_file(trusted(file))
    assert not (tmp_path / "copy").exists()


def test_many_sparse_files_are_left_out_of_a_safety_copy(tmp_path: Path) -> None:
    """The holes of a folder count together; the other files are in the copy."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(4):
        make_sparse(folder / f"{number}", 65 << 30)
    (folder / "sound").write_text("content")
    gaps = Gaps()
    content = capture_tree(trusted(folder), trusted(tmp_path / "copy"), gaps)
    assert [entry.path for entry in content.entries] == ["sound"]
    assert sorted(gaps.left_out) == ["0", "1", "2", "3"]
