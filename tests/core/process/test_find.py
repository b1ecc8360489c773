"""Child processes are found by environment, group or session, and all of them are ended."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from release_tasks.core.process.find import (
    MarkedProcesses,
    children_of,
    find_open_path,
    is_running,
    start_ticks,
    wait_or_kill,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

MARK = "RELEASE_TASKS_TEST_MARK"
SLEEPS = "import time; time.sleep(600)"
IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
# The parent exits; its child left the group and the session, and ignores SIGTERM.
ESCAPES = f"""
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
os.execv(sys.executable, [sys.executable, "-c", {IGNORES_SIGTERM!r}])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Return a starter of Python programs with a mark in their environment; all are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, mark: str | None = "", **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, MARK: mark or str(os.getpid())} if mark is not None else {}
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=pipe, stdout=pipe, text=True, **options
        )
        started.append(child)
        return child

    yield run
    for child in started:
        for process in [*children_of(child.pid), *marked().search()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def marked(group: int | None = None, **options: Any) -> MarkedProcesses:
    return MarkedProcesses(MARK, str(os.getpid()), group, **options)


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_process_that_left_its_session_and_ignores_sigterm_is_killed(start: Start) -> None:
    """Its environment identifies it; its parent and its group do not."""
    child = start(ESCAPES)
    assert read_line(child) == "ready"
    child.wait()
    (found,) = marked().search()
    assert found.ppid() != os.getpid()
    assert marked().terminate(0.1) == {found}
    assert not is_running(found) and marked().search() == set()


def test_process_that_ends_on_sigterm_is_not_killed(start: Start) -> None:
    """The wait ends with the process."""
    start(SLEEPS)
    start_time = time.monotonic()
    assert marked().terminate(10.0) == set()
    assert time.monotonic() - start_time < 5


def test_each_of_two_nested_marks_finds_a_process(start: Start) -> None:
    """A command inside a command has the marks of both."""
    start(SLEEPS, mark="outer-4711:inner-4711")
    for value in ("outer-4711", "inner-4711", "outer-4711:inner-4711"):
        assert len(MarkedProcesses(MARK, value).search()) == 1
    assert MarkedProcesses(MARK, "outer").search() == set()


def test_group_or_session_finds_a_process_without_the_mark(start: Start) -> None:
    """A program can clear its environment; its group and its session are searched too."""
    leader = start("import os; os.setsid(); print('ready', flush=True); input()", mark=None)
    assert read_line(leader) == "ready"
    assert {process.pid for process in marked(leader.pid).search()} == {leader.pid}
    assert marked().search() == set()
    # In the session, and not in the group.
    code = "import os; os.setsid(); r = os.fork() or os.setpgid(0, 0); print('ready', flush=True); input()"
    leader = start(code, mark=None)
    assert (read_line(leader), read_line(leader)) == ("ready", "ready")
    assert len(marked(leader.pid).search()) == 2
    assert len(marked(leader.pid).terminate(0.0, with_sigterm=False)) == 2
    assert marked(leader.pid).search() == set()


def test_process_without_an_environment_delays_the_search_only_shortly(start: Start) -> None:
    """It may be inside an execve, so it is read again for a short time."""
    child = start("print('ready', flush=True); input()", mark=None)
    assert read_line(child) == "ready"
    start_time = time.monotonic()
    assert marked(since=start_ticks(child.pid)).running() == set()
    assert 0.15 < time.monotonic() - start_time < 5


def test_zombie_is_not_running(start: Start) -> None:
    """It keeps its pid until it is reaped, and nothing else."""
    child = start("pass", start_new_session=True)
    process = psutil.Process(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert not is_running(process) and not is_running(child.pid)
    assert marked(child.pid).search() == set()
    assert start_ticks(child.pid) is not None
    child.wait()
    assert not is_running(child.pid) and start_ticks(child.pid) is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls exit(2) by its number")
def test_process_whose_first_thread_ended_is_running(start: Start) -> None:
    """The kernel reports a zombie, but other threads still hold its port and its locks."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        " print('ready', flush=True); ctypes.CDLL(None).syscall(60, 0)"
    )
    child = start(code, start_new_session=True)
    assert read_line(child) == "ready"
    process = psutil.Process(child.pid)
    deadline = time.monotonic() + 10
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert is_running(process)
    assert marked(child.pid).terminate(0.0, with_sigterm=False) == {process}
    assert not is_running(process)


@pytest.mark.parametrize("kind", ["file", "folder", "deleted", "fifo"])
def test_open_file_below_a_folder_is_found(start: Start, tmp_path: Path, kind: str) -> None:
    """A folder, a pipe and a deleted file count as well as a file."""
    live = tmp_path / "live"
    live.mkdir()
    path = live / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("")
    code = f"import os; os.open({str(path)!r}, os.O_RDONLY | os.O_NONBLOCK); print('ready', flush=True); input()"
    child = start(code)
    assert read_line(child) == "ready"
    if kind == "deleted":
        path.unlink()
    found = marked().search()
    opened = find_open_path(found, [live])
    assert opened is not None and opened.parent == live
    assert find_open_path(found, [tmp_path / "elsewhere", live / "y"]) is None


def test_descendants_of_a_process_are_listed_and_ended(start: Start) -> None:
    """Grandchildren are included."""
    child = start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {IGNORES_SIGTERM!r}])")
    assert read_line(child) == "ready"
    below = children_of(child.pid)
    assert len(below) == 1
    wait_or_kill(below, 0.1)
    assert not any(map(is_running, below))
    assert children_of(2**22 + 1) == []


def test_start_time_is_read_for_any_program_name(tmp_path: Path) -> None:
    """The name in /proc/PID/stat may contain any character, parentheses and spaces included."""
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "60"])
    try:
        own = start_ticks(os.getpid())
        child_start = start_ticks(child.pid)
        assert own is not None and child_start is not None and child_start >= own
    finally:
        child.kill()
        child.wait()
