"""Where the system starts no thread, the work runs in the calling one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from pytest_httpserver import HTTPServer

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.threads import pool, run_aside
from release_tasks.stages.prepare import prepare_release
from tests.support.project import Project


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no thread starts, as with ``ulimit -u``; a test as root has no such limit."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_release_and_its_rollback_need_no_threads(
    tmp_path_factory: pytest.TempPathFactory, httpserver: HTTPServer, threadless: Callable[[], None]
) -> None:
    """Gates run one after the other, assets are captured in turn, and health is asked directly."""
    httpserver.expect_request("/health").respond_with_data("ok")
    project = Project(tmp_path_factory.mktemp("project"))
    project.overrides |= {"health.url": httpserver.url_for("/health")}
    project.overrides |= {"gates": {"one": {"command": "true"}, "two": {"http": "health"}}}
    before = project.content()
    threadless()
    assert prepare_release(project.settings).status == "ready"
    project.damage()
    assert project.roll_back().status == "restored"
    assert project.content() == before


def test_a_signal_during_work_in_the_calling_thread_is_raised(threadless: Callable[[], None]) -> None:
    """It is no result of the work."""

    def work() -> None:
        raise Interrupted(ExitCode.SIGTERM)

    threadless()
    with pytest.raises(Interrupted):
        run_aside(work, "work")
    with pool(2) as threads:
        assert isinstance(threads.submit(int, "x").exception(), ValueError)
        with pytest.raises(Interrupted):
            threads.submit(work)


_STUCK_WORKER = """
import sqlite3, sys
from release_tasks.core.interrupt import interruptible, wait_for
from release_tasks.core.threads import pool
endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
try:
    with interruptible(), pool(2) as threads:
        stuck = threads.submit(lambda: sqlite3.connect(":memory:").execute(endless).fetchall())
        print("ready", flush=True)
        wait_for(lambda seconds: stuck.running() and not threads.submit(lambda: None).exception(1) and stuck.done())
except BaseException as error:
    print(type(error).__name__, flush=True)
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_call_without_an_end_does_not_keep_the_process() -> None:
    """A signal ends the block and then the process, while a thread is in a call of C code."""
    command = [sys.executable, "-c", _STUCK_WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (3, "Interrupted\n")


def test_a_pool_runs_every_call_before_its_block_ends() -> None:
    """Results and exceptions are those of the calls, in more calls than threads."""
    done: list[int] = []
    with pool(2) as threads:
        calls = [threads.submit(done.append, number) for number in range(20)]
        failing = threads.submit(int, "x")
    assert sorted(done) == list(range(20)) and all(call.done() for call in calls)
    assert isinstance(failing.exception(), ValueError)
