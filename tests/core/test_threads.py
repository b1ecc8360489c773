"""Where the system starts no thread, the work runs in the calling one."""

from __future__ import annotations

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
