"""A real service whose answers a script sets, and a clock that a test sets."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from release_tasks.core.events import Emit, Event, SampleTaken
from release_tasks.core.records import Manifest
from release_tasks.stages.watch.watching import Clock
from tests.support.project import Project

__all__ = ["MakeRelease", "ReadEvents", "SetClock", "WatchedService", "at_samples"]

MakeRelease = Callable[..., Manifest]  # make(project, "v1")
ReadEvents = Callable[[Project], list[dict[str, Any]]]


class WatchedService:
    """A real service with /health and /reliability.

    ``script`` has an answer for each of the next health requests; the last one repeats. An answer is a status word of
    the envelope, a whole body as a dict, an HTTP status, ``refused`` (it hangs up), ``silent`` (it never answers) or
    ``dribble``.
    """

    def __init__(self) -> None:
        self.script: list[Any] = ["ok"]
        self.pressure: dict[str, int] | str | None = {}
        self.requests = 0
        self.on_request: Callable[[int], None] = lambda number: None
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
        self.requests += 1
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.on_request(self.requests)
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
        elif isinstance(answer, dict):
            send(request, answer)
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
    """A clock that only waits advance. ``suspends`` adds seconds of suspend to waits, numbered from 1."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits = 0
        self.suspends: dict[int, float] = {}

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, is_over: Callable[[], object] = bool) -> None:
        self.waits += 1
        self.time += max(seconds, 0.0) + self.suspends.get(self.waits, 0.0)


def at_samples(act: Callable[[SampleTaken], object]) -> Emit:
    """Return a consumer of events that calls ``act`` with each sample of a watch."""

    def emit(event: Event) -> None:
        if isinstance(event, SampleTaken):
            act(event)

    return emit
