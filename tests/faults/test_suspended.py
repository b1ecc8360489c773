"""A process that is suspended in a wait (SIGSTOP, a sleeping laptop, a paused machine) goes on waiting afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from release_tasks.core.lock import run_lock
from release_tasks.core.units import show_duration
from tests.support.asset_kind import install_kind_in
from tests.support.lock_holder import stopped
from tests.support.long_waits import LIMIT, WAITS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_REPOSITORY = Path(__file__).parents[2]
_SUSPENDED = LIMIT + 1.0  # seconds


class Service:
    """A service that is healthy half a second after ``resume``: /slow answers then, /starting hangs up before.

    /fine is always healthy.
    """

    def __init__(self) -> None:
        self.resumed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/slow":
                    outer.resumed.wait(60)
                    time.sleep(0.5)
                if self.path == "/starting" and not outer.is_healthy():
                    return
                with contextlib.suppress(OSError):
                    self.send_response(200 if self.path != "/health" or outer.is_healthy() else 503)
                    self.end_headers()
                    self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/health"
        self.healthy_from = float("inf")
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def is_healthy(self) -> bool:
        return time.monotonic() >= self.healthy_from

    def resume(self) -> None:
        self.healthy_from = time.monotonic() + 0.5
        self.resumed.set()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.resumed.set()
    running.server.shutdown()
    running.server.server_close()


def start(name: str, folder: Path, url: str) -> subprocess.Popen[str]:
    """Start a process for one of the waits; it waits after ``begin``."""
    path = os.pathsep.join([str(folder / "site"), str(_REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.long_waits", name, str(folder), url],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Let all processes begin to wait at the same time."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"


def test_suspended_waits_end_as_if_they_had_not_been_suspended(tmp_path: Path, service: Service) -> None:
    """Every wait is suspended for longer than its limit, and what it waits for happens within the limit afterwards."""
    for name in WAITS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "resumed").symlink_to(tmp_path / "resumed")
    install = install_kind_in(tmp_path / "plugin" / "site")
    install(
        check="while not os.path.exists(os.path.join(os.path.dirname(copy), 'resumed')): time.sleep(0.05)\nreturn []"
    )
    (tmp_path / "plugin" / "state.txt").write_text("one")
    with run_lock(tmp_path / "lock" / "pipeline", "the test"):
        processes = {name: start(name, tmp_path / name, service.url) for name in WAITS}
        begin(processes.values())
        time.sleep(0.3)  # all are in the middle of their wait
        with contextlib.ExitStack() as suspended:
            for process in processes.values():
                suspended.enter_context(stopped(process.pid))
            time.sleep(_SUSPENDED)
        (tmp_path / "resumed").touch()
        service.resume()
        time.sleep(0.5)
    results = {name: process.communicate(timeout=60)[0].strip() for name, process in processes.items()}
    assert results == dict.fromkeys(WAITS, "status ok")


def test_suspended_service_counts_as_a_failure(tmp_path: Path) -> None:
    """Only the time in which the waiting process itself was suspended does not count."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        url = f"http://127.0.0.1:{int(service.stdout.readline())}/health"
        with stopped(service.pid):
            process = start("health", tmp_path, url)
            begin([process])
            result = process.communicate(timeout=60)[0]
        service.kill()
    assert f"not healthy within {show_duration(LIMIT)}" in result and "gave no complete response within 1s" in result


_SERVICE = """
from http.server import BaseHTTPRequestHandler, HTTPServer
server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
