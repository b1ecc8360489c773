"""Writes that survive a kill, and renames in the order that a power cut asks for."""

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
def test_write_atomic_replaces_all_of_the_file(tmp_path: Path) -> None:
    """The new bytes are there, under mode 0600, and nothing else is left beside them."""
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
def test_a_killed_writer_leaves_the_old_or_the_new_bytes(tmp_path: Path) -> None:
    """Ten kills at random moments: the file is never a mix, never short."""
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
    """Bytes first, then the name, then the folder: any other order loses the file in a power cut."""
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


def test_a_new_folder_is_flushed_into_its_parent(tmp_path: Path) -> None:
    """Every level that was missing is made durable."""
    deep = tmp_path / "a" / "b"
    script = (
        "from pathlib import Path; from release_tasks.core.durable import make_private_directory as m; "
        f"m(Path({str(deep)!r}))"
    )
    flushed = [step for step in trace(tmp_path, script) if "fsync" in step]
    assert any(f"<{tmp_path}>" in step for step in flushed)
    assert any(f"<{tmp_path}/a>" in step for step in flushed)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
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
    """What somebody else made is not ours to change; what we make is private."""
    os.chmod(tmp_path, 0o755)
    make_private_directory(tmp_path / "a" / "b")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o700, 0o700]


@pytest.mark.parametrize("obstacle", ["file", "dangling link"])
def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path, obstacle: str) -> None:
    """Nobody is told that a folder is there when it is none."""
    place = tmp_path / "place"
    if obstacle == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        make_private_directory(place)


def test_several_threads_may_make_the_same_folder(tmp_path: Path) -> None:
    """Whoever comes second finds it there."""
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


def test_remove_tree_takes_all_of_it_and_follows_no_link(tmp_path: Path) -> None:
    """Read-only folders go too; what a link points at stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    doomed = tmp_path / "doomed"
    (doomed / "locked").mkdir(parents=True)
    (doomed / "locked" / "file").touch()
    (doomed / "link").symlink_to(outside)
    os.chmod(doomed / "locked", 0o500)
    os.chmod(doomed, 0o500)
    remove_tree(doomed)
    remove_tree(doomed)
    assert not doomed.exists()
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    assert (outside / "precious").exists()


def test_remove_durably_does_not_mind_absence(tmp_path: Path) -> None:
    """It is about the name being gone."""
    (tmp_path / "file").touch()
    remove_durably(tmp_path / "file")
    remove_durably(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_exchange_swaps_two_names(tmp_path: Path) -> None:
    """A file and a folder change places, each with its inode."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    inodes = [(tmp_path / name).stat().st_ino for name in ("file", "folder")]
    exchange(tmp_path / "file", tmp_path / "folder")
    assert [(tmp_path / name).stat().st_ino for name in ("folder", "file")] == inodes
    assert (tmp_path / "file").is_dir()


def test_exchange_with_a_missing_name_says_which(tmp_path: Path) -> None:
    """The error carries both names, and nothing moved."""
    (tmp_path / "here").touch()
    with pytest.raises(FileNotFoundError) as error:
        exchange(tmp_path / "here", tmp_path / "gone")
    assert error.value.filename2 == str(tmp_path / "gone")
    assert os.listdir(tmp_path) == ["here"]


def test_fsync_tree_reaches_every_file_and_folder(tmp_path: Path) -> None:
    """More files than threads, a dangling link, an empty folder: all of it is flushed, nothing is followed."""
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
