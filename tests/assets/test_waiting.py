"""The wait for a lock of another process, and the description of that process."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.database import capture_database
from release_tasks.assets.waiting import LockWait, PosixLock, holders_of
from release_tasks.core.events import Event, Noted
from release_tasks.core.place import trusted
from tests.support.lock_holder import stopped
from tests.support.processes import await_true
from tests.support.project import Project
from tests.support.scripts import locked_database

_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, getattr(fcntl, sys.argv[2]), 2, 100)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A file with a lock of another process, whose command line has a secret and a newline; and the process id."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    command = [sys.executable, "-c", _HOLDER, str(path), "LOCK_EX", "--password", "it's hunter22222 here"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield path, process.pid
        process.communicate(timeout=30)


def test_the_holder_is_named_without_secrets(locked: tuple[Path, int]) -> None:
    """One line with the process id and the start of its command."""
    path, pid = locked
    found = holders_of(trusted(path), lambda lock: lock == PosixLock(pid=pid, is_exclusive=True, start=100))
    assert len(found) == 1
    assert found[0].startswith(f"process {pid} ({sys.executable} -c import fcntl")
    assert "hunter22222" not in found[0] and "\n" not in found[0]


def test_a_long_command_line_delays_no_message(tmp_path: Path) -> None:
    """The holder chooses its arguments, and their secrets are searched."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    command = [sys.executable, "-I", "-S", "-c", _HOLDER, str(path), "LOCK_EX", *["a"] * 100_000]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        start = time.monotonic()
        assert len(holders_of(trusted(path), lambda lock: lock.pid == process.pid)) == 1
        assert time.monotonic() - start < 3
        process.communicate(timeout=30)


def test_other_locks_are_not_named(locked: tuple[Path, int], tmp_path: Path) -> None:
    """Locks of this process, locks that do not block, a file without locks, and no file."""
    path, pid = locked
    assert holders_of(trusted(path), lambda lock: lock.start == 99 or not lock.is_exclusive) == []
    other = tmp_path / "other"
    with other.open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert holders_of(trusted(other), lambda lock: True) == []
    assert holders_of(trusted(tmp_path / "missing"), lambda lock: True) == []
    assert pid != os.getpid()


@pytest.mark.slow
def test_a_capture_says_whom_it_waits_for_and_goes_on(project: Project) -> None:
    """A database that is locked exclusively for a while is captured when the lock ends."""
    events: list[Event] = []
    released = threading.Event()

    def capture() -> None:
        wait = LockWait(60, events.append)
        capture_database(trusted(project.database), project.folder / "copy.db", wait=wait)
        released.set()

    capturing = threading.Thread(target=capture)
    with locked_database(project.database, "PRAGMA journal_mode = DELETE"):
        capturing.start()
        await_true(lambda: events, 30)
        assert not released.is_set()
    capturing.join(30)
    assert released.is_set()
    assert isinstance(events[0], Noted)
    assert f"{project.database} is locked by process " in events[0].sentence
    assert "more (release.lock_wait)" in events[0].sentence


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """A wait of two seconds lasts two seconds after a stop of three, except for the last second that it may count."""
    code = (
        "import time; from release_tasks.assets.waiting import LockWait; wait = LockWait(2.0); wait.begin()\n"
        "start = time.monotonic(); print('waiting', flush=True)\n"
        "while wait.go_on(lambda: ''): pass\n"
        "print(time.monotonic() - start, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        with stopped(process.pid):
            time.sleep(3)  # the length of the stop is what is tested
        assert float(process.stdout.readline()) >= 3.9


def test_a_wait_of_no_time_tries_once() -> None:
    """``lock_wait: 0s`` never sleeps."""
    wait = LockWait(0.0)
    wait.begin()
    assert not wait.go_on(lambda: "never called")
