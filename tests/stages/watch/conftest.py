"""What the watch's tests share: a service that answers as a script says, a clock that can be set, a release."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from release_tasks.core.records import Manifest, PreflightReport
from release_tasks.stages.watch.watching import Clock
from tests.support.faults.stages import prepare
from tests.support.project import Project


class Service:
    """A real service with /health and /reliability.

    ``script`` holds an answer for each of the next looks at health and the last one for ever: a status word of the
    envelope, an HTTP status, ``refused`` (it hangs up), ``silent`` (it never answers) or ``dribble``.
    """

    def __init__(self) -> None:
        self.script: list[Any] = ["ok"]
        self.pressure: dict[str, int] | str | None = {}
        self.looks = 0
        self.on_look: Callable[[int], None] = lambda number: None
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    if self.path == "/reliability":
                        outer.answer_reliability(self)
                    else:
                        outer.answer_health(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def answer_health(self, request: BaseHTTPRequestHandler) -> None:
        self.looks += 1
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.on_look(self.looks)
        if answer == "refused":
            return
        if answer == "silent":
            self.closing.wait(30)
        elif answer == "dribble":
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self.closing.wait(0.02):
                request.wfile.write(b"x")
        elif isinstance(answer, int):
            send(request, {"ok": False, "error": {"message": "a private message"}}, answer)
        else:
            send(request, {"ok": True, "data": {"status": answer}})

    def answer_reliability(self, request: BaseHTTPRequestHandler) -> None:
        if isinstance(self.pressure, str):  # "silent"
            self.closing.wait(30)
            return
        if self.pressure is None:
            send(request, {"ok": False}, 500)
            return
        counts = {"totalQueued": 0, "totalDispatching": 0, "totalFailed": 0, "totalDeadLetters": 0, **self.pressure}
        rejected = counts.pop("totalRejected", 0)
        send(request, {"ok": True, "data": {"queue": counts, "callbacks": {"totalRejected": rejected}}})

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def send(request: BaseHTTPRequestHandler, body: dict[str, Any], status: int = 200) -> None:
    """Answer with a JSON body."""
    data = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


class SetClock(Clock):
    """A clock that stands still but for waits; ``sleeps`` names waits, from 1, in which the machine sleeps as well."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits = 0
        self.sleeps: dict[int, float] = {}

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.waits += 1
        self.time += max(seconds, 0.0) + self.sleeps.get(self.waits, 0.0)


@pytest.fixture
def service() -> Iterator[Service]:
    """Serve a scripted service on a free loopback port."""
    running = Service()
    yield running
    running.close()


@pytest.fixture
def clock() -> SetClock:
    """Return a clock that only waits move."""
    return SetClock()


@pytest.fixture
def release() -> Callable[..., Manifest]:
    """Return a maker of releases: ``release(project, "v1")`` prepares one, baseline and snapshot included."""

    def make(project: Project, release_id: str = "v1") -> Manifest:
        report = PreflightReport(passed=True, checks=[], failed_checks=[])
        manifest = prepare(project.settings, report, release_id)
        assert manifest.status == "ready", manifest.diagnostics
        return manifest

    return make


@pytest.fixture
def watched(project: Project, service: Service) -> Any:
    """Return a scratch project whose service is watched every 10 s for 3 minutes, 19 looks."""
    project.overrides["health.url"] = f"{service.base}/health"
    project.overrides["health.timeout"] = "10s"
    project.overrides["health.deadline"] = "500ms"
    project.overrides["health.passes_after_restore"] = 1
    project.overrides["watch"] = {"for": "3m", "interval": "10s"}
    return project


@pytest.fixture
def events() -> Callable[[Any], list[dict[str, Any]]]:
    """Return a reader of the audit log, which must be intact."""

    def read(project: Project) -> list[dict[str, Any]]:
        verdict = project.pipeline.audit.verify(project.pipeline.anchors())
        assert verdict.intact, verdict.problems
        return list(verdict.events)

    return read
