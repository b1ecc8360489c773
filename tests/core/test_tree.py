"""Trees deeper and paths longer than the system's limits, with few descriptors, and folders that move meanwhile."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks.assets.overwrite import overwrite_tree
from release_tasks.assets.trees import capture_tree, place_tree, scan_tree, tree_size
from release_tasks.core.durable import fsync_tree, remove_tree
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord
from release_tasks.core.tree import Missed, Tree, refuse, walk

DEPTH = 3000
NAME = "folder-name"  # with 3,000 of them a path has 36,000 bytes; PATH_MAX is 4096


@pytest.fixture(autouse=True)
def remove_trees(tmp_path: Path) -> Iterator[None]:
    """Remove the trees of a test that failed: pytest cannot."""
    yield
    for path in tmp_path.iterdir():
        remove_tree(path)


def make_deep(root: Path, depth: int = DEPTH, name: str = NAME) -> None:
    """Make nested folders with a file in each hundredth."""
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    for level in range(depth):
        if level % 100 == 0:
            file = os.open("file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=folder)
            os.write(file, str(level).encode())
            os.close(file)
        os.mkdir(name, 0o750, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deep_tree_is_captured_placed_overwritten_and_removed(tmp_path: Path) -> None:
    """All entries come back from 3,000 levels, which no path can name."""
    live, copy, placed = tmp_path / "live", tmp_path / "copy", tmp_path / "placed"
    make_deep(live)
    entries = capture_tree(trusted(live), trusted(copy)).entries
    assert len(entries) == DEPTH + DEPTH // 100
    place_tree(copy, trusted(placed), entries, 0o755)
    assert scan_tree(trusted(placed)).entries == entries == scan_tree(trusted(live)).entries
    assert tree_size(trusted(placed)) == sum(entry.size for entry in entries)
    record = AssetRecord(key="k", relative_path="r", kind="directory", exists=True, mode=0o755, entries=entries)
    overwrite_tree(record, copy, trusted(placed))
    assert scan_tree(trusted(placed)).entries == entries
    fsync_tree(placed)
    for root in (live, copy, placed):
        remove_tree(root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    """A limit of 64 open files is enough."""
    make_deep(tmp_path / "live", 500)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from release_tasks.assets.trees import capture_tree, place_tree\n"
        "from release_tasks.core.durable import fsync_tree, remove_tree\n"
        "from release_tasks.core.place import trusted\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))\n"
        "root = Path(sys.argv[1])\n"
        "entries = capture_tree(trusted(root / 'live'), trusted(root / 'copy')).entries\n"
        "place_tree(root / 'copy', trusted(root / 'placed'), entries, 0o755)\n"
        "fsync_tree(root / 'placed')\n"
        "[remove_tree(root / name) for name in ('live', 'copy', 'placed')]\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_depth_of_a_tree_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Together the paths of 2,000 levels have 500 MB: a safety capture leaves out the deepest, a release is refused."""
    make_deep(tmp_path / "live", 2000, "n" * 255)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from release_tasks.assets.files import Gaps\n"
        "from release_tasks.assets.trees import capture_tree, scan_tree\n"
        "from release_tasks.core.durable import fsync_tree, remove_tree\n"
        "from release_tasks.core.place import trusted\n"
        "from release_tasks.core.errors import StageFailed\n"
        "limit = 300 << 20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "live, copy, gaps = Path(sys.argv[1]), Path(sys.argv[2]), Gaps()\n"
        "entries = capture_tree(trusted(live), trusted(copy), gaps).entries\n"
        "assert len(entries) > 700 and gaps.left_out_count == 1, (len(entries), gaps)\n"
        "assert [each.path for each in scan_tree(trusted(copy)).entries] == [each.path for each in entries]\n"
        "remove_tree(copy)\n"
        "try:\n"
        "    capture_tree(trusted(live), trusted(copy))\n"
        "except StageFailed as error:\n"
        "    assert 'too many folders inside each other' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('captured')\n"
        "fsync_tree(live)\n"
        "remove_tree(live)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "live"), str(tmp_path / "copy")], check=True)


def test_names_of_255_bytes_and_of_any_bytes_are_walked(tmp_path: Path) -> None:
    """Long, multibyte, non-UTF-8 and odd names."""
    names = ["a" * 255, "\u00e9" * 127, "new\nline", "a-b", "a", os.fsdecode(b"\xff\xfe"), "-", " "]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    found = [entry.path for entry in walk(tmp_path) if not entry.is_end]
    assert sorted(found) == sorted(["", *names, *(f"{name}/file" for name in names)])


def test_folders_that_move_away_during_a_walk_are_an_error_or_are_missed(tmp_path: Path) -> None:
    """Two folders above the walk move to another place: it does not go on there."""
    live, elsewhere = tmp_path / "live", tmp_path / "elsewhere"
    make_deep(live, 60, "d")
    elsewhere.mkdir()

    def move_and_walk(miss: Missed) -> list[str]:
        found: list[str] = []
        for entry in walk(live, miss):
            if entry.path.count("/") == 50 and not (elsewhere / "inner").exists():
                (live / "d" / "d" / "d").rename(elsewhere / "inner")
                (live / "d").rename(elsewhere / "outer")
            found.append(entry.path)
        return found

    missed: list[str] = []
    found = move_and_walk(lambda path, error: missed.append(path))
    assert (found[-1], missed) == ("", ["d/d/d", "d/d"])
    (elsewhere / "outer").rename(live / "d")
    (elsewhere / "inner").rename(live / "d" / "d" / "d")
    with pytest.raises(OSError, match="was moved"):
        move_and_walk(refuse)


def test_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link to a folder outside is never entered, however late it appears."""
    (tmp_path / "live" / "folder").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    found: list[str] = []
    missed: list[str] = []
    for entry in walk(tmp_path / "live", lambda path, error: missed.append(path)):
        if entry.path == "" and not entry.is_end:
            walked = (tmp_path / "live" / "folder").rename(tmp_path / "live" / "was")
            (tmp_path / "live" / "folder").symlink_to(tmp_path / "outside")
        found.append(entry.path)
    assert walked.exists()
    assert not any("secret" in path for path in found + missed)


def test_tree_refuses_names_that_lead_out(tmp_path: Path) -> None:
    """A path with ".." is an error before anything is opened."""
    (tmp_path / "a").mkdir()
    for path in ("..", "a/../..", "a/./a"):
        with Tree(tmp_path) as tree, pytest.raises(OSError, match="Invalid argument"):
            tree.go(path)


def test_read_only_and_unreadable_folders_are_removed_by_their_owner(tmp_path: Path) -> None:
    """Folders with mode 000, as a process of their owner that is not root."""
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").touch()
    for path in (root, root / "a", root / "a" / "b"):
        os.chown(path, 1000, 1000) if os.geteuid() == 0 else None
    for path in (root / "a" / "b", root / "a", root):
        os.chmod(path, 0)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.chmod(tmp_path, 0o777)
                for parent in tmp_path.parents:
                    if not os.access(parent, os.X_OK) or stat.S_IMODE(parent.stat().st_mode) & 0o001 == 0:
                        os.chmod(parent, 0o711)
                os.setgid(1000)
                os.setuid(1000)
            remove_tree(root)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not root.exists()
