"""Writes that survive a kill, and the order of renames and flushes that a power cut requires."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from release_tasks.core.durable import (
    exchange,
    fsync_tree,
    make_private_directory,
    remove_durably,
    remove_tree,
    write_atomic,
)

REWRITER = """
import sys
from pathlib import Path
from release_tasks.core.durable import write_atomic
path = Path(sys.argv[1])
while True:
    for letter in (b"a", b"b"):
        write_atomic(path, letter * (1 << 20))
        print("written", flush=True)
"""

SYSCALLS = "fsync,fdatasync,rename,renameat,renameat2,unlink"


def trace(tmp_path: Path, script: str) -> list[str]:
    """Run Python under strace; return its fsyncs and renames in order."""
    if shutil.which("strace") is None:
        pytest.skip("NOT TESTED: strace is not installed")
    output = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={SYSCALLS}", "-o", str(output)]
    done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip("NOT TESTED: strace may not trace here")
    assert done.returncode == 0, done.stderr
    return [line for line in output.read_text().splitlines() if str(tmp_path) in line]


@pytest.mark.smoke
def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    """The file has the new bytes and mode 0600, and no other file is left."""
    path = tmp_path / "new" / "file.json"
    before = os.umask(0)
    try:
        write_atomic(path, b"old" * 1000)
        write_atomic(path, b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.slow
def test_killed_writer_leaves_the_old_or_the_new_bytes(tmp_path: Path) -> None:
    """After ten kills at random moments the file is complete."""
    chance = random.Random(3)
    path = tmp_path / "file"
    write_atomic(path, b"a" * (1 << 20))
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", REWRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        assert path.read_bytes() in (b"a" * (1 << 20), b"b" * (1 << 20))


def test_write_atomic_flushes_before_and_after_the_rename(tmp_path: Path) -> None:
    """First the bytes, then the name, then the folder: in another order a power cut loses the file."""
    path = tmp_path / "file"
    script = (
        "from pathlib import Path; from release_tasks.core.durable import write_atomic\n"
        f"write_atomic(Path({str(path)!r}), b'x')"
    )
    steps = trace(tmp_path, script)
    order = [re.sub(r"^\d+\s+", "", step).split("(")[0] for step in steps if "unlink" not in step]
    assert order == ["fsync", "rename", "fsync"]
    assert ".tmp>" in steps[0]
    assert f"<{tmp_path}>" in steps[2] or f"<{tmp_path}>" in steps[-1]


def test_new_folder_is_flushed_into_its_parent(tmp_path: Path) -> None:
    """Every level that was created is durable."""
    deep = tmp_path / "a" / "b"
    script = (
        "from pathlib import Path; from release_tasks.core.durable import make_private_directory as m; "
        f"m(Path({str(deep)!r}))"
    )
    flushed = [step for step in trace(tmp_path, script) if "fsync" in step]
    assert any(f"<{tmp_path}>" in step for step in flushed)
    assert any(f"<{tmp_path}/a>" in step for step in flushed)


def test_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    """A full disk (here: a limit on file size) changes nothing."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    script = (
        "import resource; from pathlib import Path; from release_tasks.core.durable import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"write_atomic(Path({str(path)!r}), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_existing_folders_keep_their_mode(tmp_path: Path) -> None:
    """Only folders that were created are private."""
    os.chmod(tmp_path, 0o755)
    make_private_directory(tmp_path / "a" / "b")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o700, 0o700]


@pytest.mark.parametrize("existing", ["file", "dangling link"])
def test_file_in_place_of_a_folder_is_an_error(tmp_path: Path, existing: str) -> None:
    """A call never succeeds without a folder."""
    place = tmp_path / "place"
    if existing == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        make_private_directory(place)


def test_several_threads_may_create_the_same_folder(tmp_path: Path) -> None:
    """A thread that comes second finds the folder."""
    problems: list[BaseException] = []

    def make() -> None:
        try:
            make_private_directory(tmp_path / "a" / "b" / "c")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_remove_tree_removes_everything_and_follows_no_link(tmp_path: Path) -> None:
    """Read-only folders are removed too; the target of a link stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target").touch()
    tree = tmp_path / "tree"
    (tree / "locked").mkdir(parents=True)
    (tree / "locked" / "file").touch()
    (tree / "link").symlink_to(outside)
    os.chmod(tree / "locked", 0o500)
    os.chmod(tree, 0o500)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    assert (outside / "target").exists()


def test_remove_durably_accepts_a_missing_file(tmp_path: Path) -> None:
    """Afterwards the name does not exist."""
    (tmp_path / "file").touch()
    remove_durably(tmp_path / "file")
    remove_durably(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_exchange_swaps_two_names(tmp_path: Path) -> None:
    """A file and a folder swap names, and each keeps its inode."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    inodes = [(tmp_path / name).stat().st_ino for name in ("file", "folder")]
    exchange(tmp_path / "file", tmp_path / "folder")
    assert [(tmp_path / name).stat().st_ino for name in ("folder", "file")] == inodes
    assert (tmp_path / "file").is_dir()


def test_exchange_with_a_missing_name_reports_the_name(tmp_path: Path) -> None:
    """The error has both names, and nothing moved."""
    (tmp_path / "present").touch()
    with pytest.raises(FileNotFoundError) as error:
        exchange(tmp_path / "present", tmp_path / "missing")
    assert error.value.filename2 == str(tmp_path / "missing")
    assert os.listdir(tmp_path) == ["present"]


def test_fsync_tree_flushes_every_file_and_folder(tmp_path: Path) -> None:
    """More files than threads, an empty folder and a dangling link, which is not followed."""
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True)
    for number in range(12):
        (root / f"file{number}").touch()
    (root / "dangling").symlink_to("nowhere")
    fsync_tree(root)
    fsync_tree(root / "dangling")
    script = f"from pathlib import Path; from release_tasks.core.durable import fsync_tree as f; f(Path({str(root)!r}))"
    flushed = {match[1] for step in trace(tmp_path, script) if (match := re.search(r"fsync\(\d+<([^>]*)>", step))}
    assert flushed == {str(path) for path in [root, *root.rglob("*")] if not path.is_symlink()}
