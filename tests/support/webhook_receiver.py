"""A real webhook whose answers a script sets."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Receiver"]


class Receiver:
    """A webhook. ``script`` has an answer for each of the next requests; the last one repeats.

    An answer is an HTTP status, ``hang``, ``drip`` (a byte at a time), ``reset``, ``huge`` or a redirect target.
    """

    def __init__(self) -> None:
        self.script: list[int | str] = [204]
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.sent = 0
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers.items()))
                outer.paths.append(self.path)
                outer.answer(self, outer.script.pop(0) if len(outer.script) > 1 else outer.script[0])

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the sender hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.url = f"{self.base}/hooks/T0SECRETPATH?token=querysecret"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler, answer: int | str) -> None:
        if answer == "hang":
            self.closing.wait(30)
        elif answer == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
        elif answer in ("drip", "huge"):
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            piece = b"x" if answer == "drip" else b"x" * 65536
            while not self.closing.wait(0.02 if answer == "drip" else 0):
                self.sent += request.wfile.write(piece)
        elif isinstance(answer, int):
            request.send_response(answer)
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            request.send_response(307)
            request.send_header("Location", answer)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
