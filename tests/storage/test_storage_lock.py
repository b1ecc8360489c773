"""One run at a time, and a killed one blocks nobody."""

from __future__ import annotations

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
from release_tasks.core.errors import ExitCode, LockHeld
from release_tasks.core.lock import current_holder, run_lock

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


class Holding:
    """A process that holds the lock until it is told to let go, with a child that outlives a kill."""

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
    return tmp_path / "pipeline"


@pytest.fixture
def hold(root: Path) -> Iterator[Callable[[], Holding]]:
    """Return a starter of processes that hold the lock."""
    started: list[Holding] = []

    def start() -> Holding:
        started.append(Holding(root))
        return started[-1]

    yield start
    for holding in started:
        holding.release()
        if holding.was_killed:
            os.kill(holding.child, signal.SIGKILL)


def test_a_held_lock_is_refused_with_75_and_the_name_of_its_holder(root: Path, hold: Callable[[], Holding]) -> None:
    """The message says who holds it, since when, and what to type."""
    holding = hold()
    holder = current_holder(root)
    assert holder is not None and holder.pid == holding.process.pid
    with pytest.raises(LockHeld) as held, run_lock(root, "release.prepare"):
        pytest.fail("two runs at once")
    assert held.value.exit_code is ExitCode.LOCKED
    for part in (str(holding.process.pid), "release.rollback --snapshot v1", holder.since, holder.host, "--wait"):
        assert part in held.value.message


def test_a_killed_holder_blocks_nobody(root: Path, hold: Callable[[], Holding]) -> None:
    """Neither its stale name nor a child that it left behind keeps the lock."""
    holding = hold()
    holding.kill()
    os.kill(holding.child, 0)
    assert (root / "lock.json").exists()
    assert current_holder(root) is None
    with run_lock(root, "release.prepare"):
        mine = current_holder(root)
        assert mine is not None and mine.pid == os.getpid()


def test_a_run_that_waits_gets_the_lock_when_it_is_free(root: Path, hold: Callable[[], Holding]) -> None:
    """With a time to wait, the second run goes on as soon as the first is done."""
    holding = hold()
    events: list[str] = []
    trying = threading.Event()

    def wait_for_it() -> None:
        trying.set()
        with run_lock(root, "second", wait=30):
            events.append("second runs")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    trying.wait()
    events.append("first ends")
    holding.release()
    thread.join(timeout=10)
    assert events == ["first ends", "second runs"]


def test_waiting_ends_when_the_time_is_up(root: Path, hold: Callable[[], Holding]) -> None:
    """The wait is neither cut short nor endless."""
    hold()
    start = time.monotonic()
    with pytest.raises(LockHeld), run_lock(root, "second", wait=0.6):
        pass
    assert 0.5 < time.monotonic() - start < 10


@pytest.mark.smoke
def test_the_lock_is_free_after_an_error(root: Path) -> None:
    """An exception in the block lets go of the lock and takes the holder's name away."""
    with pytest.raises(ZeroDivisionError), run_lock(root, "fails"):
        raise ZeroDivisionError
    assert current_holder(root) is None
    assert not (root / "lock.json").exists()
    with run_lock(root, "next"):
        pass


def test_the_lock_is_not_reentrant(root: Path) -> None:
    """A stage that starts another by mistake is refused instead of running inside itself."""
    with run_lock(root, "outer"), pytest.raises(LockHeld), run_lock(root, "inner"):
        pass


def test_concurrent_runs_take_turns(root: Path, tmp_path: Path) -> None:
    """Four processes that read, add one and write back lose no count."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, str(root), str(counter)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert counter.read_text() == "40"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"pid": "x", "host": 1, "command": [], "since": null}'])
def test_a_damaged_name_of_the_holder_is_no_obstacle(root: Path, hold: Callable[[], Holding], content: bytes) -> None:
    """The refusal is a sentence even when nobody can say who holds the lock."""
    hold()
    (root / "lock.json").write_bytes(content)
    with pytest.raises(LockHeld) as held, run_lock(root, "second"):
        pass
    assert "another run" in held.value.message


def test_nobody_holds_a_lock_that_was_never_taken(root: Path) -> None:
    """Asking creates nothing."""
    assert current_holder(root) is None
    assert not root.exists()


def test_lock_files_are_private(root: Path) -> None:
    """0600 and 0700, whatever the umask says."""
    before = os.umask(0)
    try:
        with run_lock(root, "command with a secret"):
            modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.iterdir()]}
    finally:
        os.umask(before)
    assert modes == {"pipeline": "0o700", "lock": "0o600", "lock.json": "0o600"}


@pytest.mark.parametrize("what", ["exchanged", "removed"])
def test_a_lock_in_a_folder_that_changed_hands_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between opening the file and locking it: whoever holds the lock holds the file that has the name now."""
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    path = folder / "lock"
    path.touch()
    real = lock.fcntl.flock
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

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.hold_name(path, 1, 0.001) as is_held:
        assert is_held and is_changed
        assert lock.lock_name(path) is None
        assert (other / "lock").exists() == (what == "exchanged")
    again = lock.lock_name(path)
    assert again is not None
    os.close(again)


def test_a_name_that_stays_locked_is_told(tmp_path: Path) -> None:
    """The block runs without it; nothing is left open."""
    path = tmp_path / "made" / "lock"
    with lock.hold_name(path, 0, 0.001) as is_held, lock.hold_name(path, 0.01, 0.001) as is_held_twice:
        assert is_held and not is_held_twice
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
