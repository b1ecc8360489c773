"""One command at a time, and a killed command blocks no other."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from release_tasks.core import lock
from release_tasks.core.durable import exchange
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld
from release_tasks.core.interrupt import interruptible
from release_tasks.core.lock import FileLock, FolderLock, current_holder, run_lock

HOLDER = """
import subprocess, sys
from pathlib import Path
from release_tasks.core.lock import run_lock
with run_lock(Path(sys.argv[1]), "release.rollback --snapshot v1"):
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.readline()
    child.kill()
    child.wait()
"""

COUNTER = """
import sys
from pathlib import Path
from release_tasks.core.lock import run_lock
root, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(10):
    with run_lock(root, "count", wait=60):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


class LockHolder:
    """A process that holds the lock until it is released, with a child that survives a kill of the process."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        self.was_killed = False

    def release(self) -> None:
        if self.process.poll() is None:
            self.process.communicate("\n", timeout=10)

    def kill(self) -> None:
        self.was_killed = True
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the pipeline folder, which does not exist yet."""
    return tmp_path / "pipeline"


@pytest.fixture
def start_holder(root: Path) -> Iterator[Callable[[], LockHolder]]:
    """Return a starter of processes that hold the lock."""
    started: list[LockHolder] = []

    def start() -> LockHolder:
        started.append(LockHolder(root))
        return started[-1]

    yield start
    for holder in started:
        holder.release()
        if holder.was_killed:
            os.kill(holder.child, signal.SIGKILL)


def test_held_lock_ends_with_75_and_names_the_holder(root: Path, start_holder: Callable[[], LockHolder]) -> None:
    """The message has the holder, its start time and what to type."""
    process = start_holder().process
    holder = current_holder(root)
    assert holder is not None and holder.pid == process.pid
    with pytest.raises(LockHeld) as held, run_lock(root, "release.prepare"):
        pytest.fail("two runs hold the lock")
    assert held.value.exit_code is ExitCode.LOCKED
    for part in (str(process.pid), "release.rollback --snapshot v1", holder.since, holder.host, "--wait"):
        assert part in held.value.message


def test_killed_holder_does_not_block_the_next_run(root: Path, start_holder: Callable[[], LockHolder]) -> None:
    """Neither its lock.json nor a child that it left behind keeps the lock."""
    holder = start_holder()
    holder.kill()
    os.kill(holder.child, 0)
    assert (root / "lock.json").exists()
    assert current_holder(root) is None
    with run_lock(root, "release.prepare"):
        current = current_holder(root)
        assert current is not None and current.pid == os.getpid()


def test_waiting_run_gets_the_lock_when_it_is_free(root: Path, start_holder: Callable[[], LockHolder]) -> None:
    """The second run starts as soon as the first one ends."""
    holder = start_holder()
    events: list[str] = []
    waiting = threading.Event()

    def wait_for_lock() -> None:
        waiting.set()
        with run_lock(root, "second", wait=30):
            events.append("second runs")

    thread = threading.Thread(target=wait_for_lock)
    thread.start()
    waiting.wait()
    events.append("first ends")
    holder.release()
    thread.join(timeout=10)
    assert events == ["first ends", "second runs"]


@pytest.mark.slow
def test_wait_says_who_holds_the_lock_and_how_long_it_lasts(
    root: Path, start_holder: Callable[[], LockHolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start of the wait, and again after a while."""
    monkeypatch.setattr(lock, "_NEXT_NOTE", 0.5)
    holder = start_holder()
    notes: list[str] = []
    with pytest.raises(LockHeld), run_lock(root, "waiting", wait=1.6, emit=lambda event: notes.append(str(event))):
        pytest.fail("the lock is held")
    assert len(notes) >= 2
    by = f"{root} is locked by 'release.rollback --snapshot v1' (pid {holder.process.pid} on "
    assert all(note.startswith(by) for note in notes)
    assert notes[0].endswith("Waiting for at most 1s more.")


@pytest.mark.slow
def test_wait_ends_at_its_deadline(root: Path, start_holder: Callable[[], LockHolder]) -> None:
    """The wait is neither cut short nor endless."""
    start_holder()
    start = time.monotonic()
    with pytest.raises(LockHeld), run_lock(root, "second", wait=0.6):
        pass
    assert 0.5 < time.monotonic() - start < 10


@pytest.mark.smoke
def test_lock_is_free_after_an_error(root: Path) -> None:
    """An exception in the block releases the lock and removes lock.json."""
    with pytest.raises(ZeroDivisionError), run_lock(root, "fails"):
        raise ZeroDivisionError
    assert current_holder(root) is None
    assert not (root / "lock.json").exists()
    with run_lock(root, "next"):
        pass


def test_lock_is_not_reentrant(root: Path) -> None:
    """A stage that starts another one by mistake is refused."""
    with run_lock(root, "outer"), pytest.raises(LockHeld), run_lock(root, "inner"):
        pass


def test_concurrent_runs_lose_no_update(root: Path, tmp_path: Path) -> None:
    """Four processes read, add one and write back."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, str(root), str(counter)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert counter.read_text() == "40"


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"pid": "x", "host": 1, "command": [], "since": null}'])
def test_damaged_lock_json_still_gives_a_message(
    root: Path, start_holder: Callable[[], LockHolder], content: bytes
) -> None:
    """The lock is refused with a message, although the holder is unknown."""
    start_holder()
    (root / "lock.json").write_bytes(content)
    with pytest.raises(LockHeld) as held, run_lock(root, "second"):
        pass
    assert "another run" in held.value.message


def test_lock_that_was_never_taken_has_no_holder(root: Path) -> None:
    """Reading the holder creates nothing."""
    assert current_holder(root) is None
    assert not root.exists()


def test_lock_files_are_private(root: Path) -> None:
    """Modes are 0600 and 0700, whatever the umask is."""
    before = os.umask(0)
    try:
        with run_lock(root, "command with a secret"):
            modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.iterdir()]}
    finally:
        os.umask(before)
    assert modes == {"pipeline": "0o700", ".gitignore": "0o600", "lock": "0o600", "lock.json": "0o600"}


@pytest.mark.parametrize("what", ["exchanged", "removed"])
def test_lock_file_replaced_before_flock_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The lock is taken on the file that has the name now, not on the one opened before."""
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    path = folder / "lock"
    path.touch()
    real = fcntl.flock
    is_changed = False

    def flock(descriptor: int, operation: int) -> None:
        nonlocal is_changed
        if not is_changed:
            is_changed = True
            if what == "exchanged":
                exchange(folder, other)
            else:
                shutil.rmtree(folder)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with FileLock(path).held(1, 0.001) as is_held:
        assert is_held and is_changed
        assert not FileLock(path).acquire()
        assert (other / "lock").exists() == (what == "exchanged")
    with FileLock(path).held() as is_held:
        assert is_held


def test_lock_that_stays_held_is_reported(tmp_path: Path) -> None:
    """The block runs with False, and no descriptor stays open."""
    path = tmp_path / "made" / "lock"
    before = len(os.listdir("/proc/self/fd"))
    with FileLock(path).held() as is_held, FileLock(path).held(0.01, 0.001) as is_held_twice:
        assert is_held and not is_held_twice
    assert len(os.listdir("/proc/self/fd")) == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lock_file_is_never_removed(tmp_path: Path) -> None:
    """Otherwise a waiting process would lock a file without a name, and a third process the next file."""
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    first = os.stat(tmp_path / "lock")
    assert lock.has_name(tmp_path / "lock")
    lock.release()
    lock.release()
    assert lock.acquire()
    assert os.path.samestat(first, os.stat(tmp_path / "lock"))
    lock.release()


def test_signal_ends_the_wait_immediately(tmp_path: Path) -> None:
    """A signal delivered to another thread does too: the wait is never one long system call."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    with FileLock(tmp_path / "lock").held() as is_held:
        assert is_held
        other.start()
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(other.ident or 0, signal.SIGTERM))
        start_time = time.monotonic()
        timer.start()
        try:
            with pytest.raises(Interrupted), interruptible():
                FileLock(tmp_path / "lock").acquire(30)
        finally:
            done.set()
        assert time.monotonic() - start_time < 5
    timer.join()
    other.join()


def test_release_frees_the_lock_although_a_forked_child_has_its_descriptor(tmp_path: Path) -> None:
    """Between fork and exec the child of another thread has every descriptor."""
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    try:
        lock.release()
        with FileLock(tmp_path / "lock").held() as is_held:
            assert is_held
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


# The lock of version 0.1.0 (UnixFileLock of filelock): it opens the file, flocks it without waiting, keeps the file.
OLDER_VERSION = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taken", flush=True)
else:
    print("held", flush=True)
    sys.stdin.readline()
    fcntl.flock(descriptor, fcntl.LOCK_UN)
os.close(descriptor)
"""


def test_version_0_1_0_and_this_version_exclude_each_other(root: Path) -> None:
    """During an upgrade both versions lock the same file in the same way."""

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OLDER_VERSION, str(root / "lock")]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with run_lock(root, "this version"), start() as older:
        assert older.communicate(timeout=30)[0] == "taken\n"
    with start() as older:
        assert older.stdout is not None
        assert older.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match="by another run"), run_lock(root, "this version"):
            pass
        older.communicate("\n", timeout=30)
    with run_lock(root, "this version"):
        pass


def test_folder_lock_locks_a_folder_and_never_creates_it(tmp_path: Path) -> None:
    """A missing folder and a locked one are not acquired; a link or a file in its place is an error."""
    folder = tmp_path / "folder"
    assert not FolderLock(folder).acquire()
    assert not folder.exists()
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    with FolderLock(folder).held() as is_held:
        assert is_held and not FolderLock(folder).acquire()
        shutil.rmtree(folder)
        folder.mkdir()
        with FolderLock(folder).held() as is_new_held:
            assert is_new_held
    with pytest.raises(OSError):
        FolderLock(tmp_path / "link").acquire()
