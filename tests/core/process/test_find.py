"""Processes are found wherever they went, by what they have in common, and none of them runs on."""

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
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
# The parent ends; its child has left the group and the session, and ignores SIGTERM.
ESCAPES = f"""
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
os.execv(sys.executable, [sys.executable, "-c", {STUBBORN!r}])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a Python program with a mark of this test in its environment; all are killed after."""
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


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_what_forks_changes_its_session_and_ignores_sigterm_is_killed(start: Start) -> None:
    """Neither its parent nor its group leads to it; its environment does."""
    child = start(ESCAPES)
    assert line_of(child) == "ready"
    child.wait()
    (found,) = marked().search()
    assert found.ppid() != os.getpid()
    assert marked().terminate(0.1) == {found}
    assert not is_running(found) and marked().search() == set()


def test_what_ends_by_itself_is_not_killed(start: Start) -> None:
    """SIGTERM is enough for a process that takes it; the wait ends with the process."""
    start(SLEEPS)
    began = time.monotonic()
    assert marked().terminate(10.0) == set()
    assert time.monotonic() - began < 5


def test_either_of_two_nested_marks_finds_a_process(start: Start) -> None:
    """A command inside a command carries the marks of both."""
    start(SLEEPS, mark="outer-4711:inner-4711")
    for value in ("outer-4711", "inner-4711", "outer-4711:inner-4711"):
        assert len(MarkedProcesses(MARK, value).search()) == 1
    assert MarkedProcesses(MARK, "outer").search() == set()


def test_group_finds_what_cleared_its_environment(start: Start) -> None:
    """The group is asked as well as the environment, and the session as well as the group."""
    leader = start("import os; os.setsid(); print('ready', flush=True); input()", mark=None)
    assert line_of(leader) == "ready"
    assert {process.pid for process in marked(leader.pid).search()} == {leader.pid}
    assert marked().search() == set()
    # In the session, and not in the group.
    code = "import os; os.setsid(); r = os.fork() or os.setpgid(0, 0); print('ready', flush=True); input()"
    leader = start(code, mark=None)
    assert (line_of(leader), line_of(leader)) == ("ready", "ready")
    assert len(marked(leader.pid).search()) == 2
    assert len(marked(leader.pid).terminate(0.0, with_sigterm=False)) == 2
    assert marked(leader.pid).search() == set()


def test_process_without_an_environment_does_not_hold_up_the_search(start: Start) -> None:
    """It may be in the middle of an execve, so it is asked again, and not for ever."""
    child = start("print('ready', flush=True); input()", mark=None)
    assert line_of(child) == "ready"
    began = time.monotonic()
    assert marked(since=start_ticks(child.pid)).running() == set()
    assert 0.15 < time.monotonic() - began < 5


def test_zombie_does_not_run(start: Start) -> None:
    """It holds its number until it is reaped, and nothing else."""
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
def test_process_whose_first_thread_has_ended_runs(start: Start) -> None:
    """The kernel calls it a zombie, and its other threads still hold its port and its locks."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        " print('ready', flush=True); ctypes.CDLL(None).syscall(60, 0)"
    )
    child = start(code, start_new_session=True)
    assert line_of(child) == "ready"
    process = psutil.Process(child.pid)
    deadline = time.monotonic() + 10
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert is_running(process)
    assert marked(child.pid).terminate(0.0, with_sigterm=False) == {process}
    assert not is_running(process)


@pytest.mark.parametrize("kind", ["file", "folder", "deleted", "fifo"])
def test_whatever_is_held_open_below_a_folder_is_found(start: Start, tmp_path: Path, kind: str) -> None:
    """A folder, a pipe and a deleted file count as much as a file."""
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
    assert line_of(child) == "ready"
    if kind == "deleted":
        path.unlink()
    found = marked().search()
    opened = find_open_path(found, [live])
    assert opened is not None and opened.parent == live
    assert find_open_path(found, [tmp_path / "elsewhere", live / "y"]) is None


def test_tree_of_a_process_is_listed_and_ended(start: Start) -> None:
    """Grandchildren too; what ends in time is left to end."""
    child = start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])")
    assert line_of(child) == "ready"
    below = children_of(child.pid)
    assert len(below) == 1
    wait_or_kill(below, 0.1)
    assert not any(map(is_running, below))
    assert children_of(2**22 + 1) == []


def test_start_is_read_whatever_a_program_is_called(tmp_path: Path) -> None:
    """The name in /proc/PID/stat may hold any character, parentheses and spaces included."""
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "60"])
    try:
        here = start_ticks(os.getpid())
        there = start_ticks(child.pid)
        assert here is not None and there is not None and there >= here
    finally:
        child.kill()
        child.wait()
