"""A real health endpoint with an answer that a test sets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

__all__ = ["Health", "MakeHealth"]


class Health:
    """A health endpoint on a free loopback port; a test may change ``status`` and ``body`` at any time."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {"ok": True, "data": {"status": "ok"}}  # JSON, or bytes that are sent unchanged
        self.content_type = "application/json"
        self.answers: Iterator[int] = iter(())  # the HTTP status of each next request; afterwards ``status``
        self.delay = 0.0  # seconds before each answer
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                body = outer.body if isinstance(outer.body, bytes) else json.dumps(outer.body).encode()
                time.sleep(outer.delay)
                self.send_response(next(outer.answers, outer.status))
                self.send_header("Content-Type", outer.content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/health"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class MakeHealth(Protocol):
    """The fixture ``make_health``: start one more endpoint."""

    def __call__(self) -> Health: ...
