"""A mapped file that another process cuts: the handler of the signal puts an empty page in its place."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.shared_memory import CutFiles

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 1 << 32, reason="NOT TESTED: needs Linux with pointers of 64 bits"
)

PAGES = 3
_READS = """
import mmap, os, sys
from release_tasks.assets.sqlite.shared_memory import CutFiles
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 0)
os.truncate(sys.argv[1], 0)
with CutFiles(print).handled():
    mapped[0]
"""


def cut_map(path: Path) -> mmap.mmap:
    path.write_bytes(b"x" * mmap.PAGESIZE * PAGES)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    os.truncate(path, 0)
    return mapped


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("in_thread", [False, True])
def test_cut_pages_are_empty_and_reported(tmp_path: Path, in_thread: bool, is_removed: bool) -> None:
    """The process goes on, in each thread, also when the thread has the lock of Python."""
    path = tmp_path / "a b.db-shm"
    mapped = cut_map(path)
    if is_removed:
        path.unlink()
    marked: list[str] = []
    read: list[int] = []

    def use() -> None:
        read.extend(mapped[page * mmap.PAGESIZE + 5] for page in range(PAGES))
        mapped[0] = 7

    with CutFiles(marked.append).handled():
        if in_thread:
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        else:
            use()
    assert read == [0] * PAGES
    assert mapped[0] == 7
    assert marked == [str(path)] * PAGES


@pytest.mark.parametrize("name", ["app.db", "app.db-wal"])
def test_other_faults_end_the_process_as_before(tmp_path: Path, name: str) -> None:
    """Only the shared memory of a database is replaced."""
    path = tmp_path / name
    path.write_bytes(b"x" * mmap.PAGESIZE)
    ended = subprocess.run([sys.executable, "-c", _READS, str(path)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "")


def test_former_handler_is_back_afterwards(tmp_path: Path) -> None:
    """Also when blocks overlap."""
    calls: list[int] = []
    former = signal.signal(signal.SIGBUS, lambda number, _: calls.append(number))
    try:
        files = CutFiles(lambda _: None)
        with files.handled(), files.handled():
            pass
        signal.raise_signal(signal.SIGBUS)
    finally:
        signal.signal(signal.SIGBUS, former)
    assert calls == [signal.SIGBUS]
