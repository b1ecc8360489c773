"""A real endpoint on TCP, TLS or a Unix socket, and a certification authority made by openssl."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import frozen

__all__ = ["Authority", "Endpoint", "Received", "unix_url"]


@frozen
class Received:
    """A request that an endpoint got. The names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without the name lookup of HTTPServer

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        return connection, address or ("socket", 0)

    def handle_error(self, *_: Any) -> None:
        pass  # a client that does not trust the certificate hangs up


class _Server6(_Server):
    address_family = socket.AF_INET6


class _UnixServer(_Server):
    address_family = socket.AF_UNIX


class Endpoint:
    """An endpoint at ``url``; a test may change its answer at any time.

    ``required`` are headers without which the answer is 401. ``redirects`` are targets by path.
    """

    def __init__(
        self, *, certificate: Path | None = None, unix_socket: Path | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.status = 200
        self.body: Any = {"status": "ok"}  # JSON, or bytes that are sent unchanged
        self.required: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.received: list[Received] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self)

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        if unix_socket is not None:
            self.server: _Server = _UnixServer(str(unix_socket), Handler)  # type: ignore[arg-type]
            self.url = unix_url(unix_socket)
        else:
            self.server = (_Server6 if ":" in host else _Server)((host, 0), Handler)
            name = f"[{host}]" if ":" in host else host
            scheme = "http" if certificate is None else "https"
            self.url = f"{scheme}://{name}:{self.server.server_address[1]}/health"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def last(self) -> Received:
        return self.received[-1]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = request.rfile.read(int(headers.get("content-length", 0)))
        self.received.append(Received(request.command, request.path, headers, body))
        target = self.redirects.get(request.path)
        is_admitted = all(headers.get(name.lower()) == value for name, value in self.required.items())
        data = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        request.send_response(302 if target else self.status if is_admitted else 401)
        if target:
            request.send_header("Location", target)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def unix_url(path: Path, rest: str = "/health") -> str:
    """Return the URL of a Unix socket."""
    return f"http+unix://{quote(str(path), safe='')}{rest}"


class Authority:
    """A certification authority: ``file`` is its certificate, ``issue`` makes certificates with their keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ca.pem"
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA"
        )

    def issue(self, name: str, days: int = 1) -> Path:
        """Return a file with a certificate for ``name``, such as ``IP:127.0.0.1``; 0 days is expired at once."""
        file = self.folder / f"{name.replace(':', '-')}-{days}.pem"
        (self.folder / "extensions").write_text(f"subjectAltName={name}\n")
        self._openssl("req", *_NEW_KEY, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=service")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
        self._openssl("x509", "-req", "-in", "leaf.csr", *signed, "-days", str(days), "-out", "leaf.pem")
        file.write_text((self.folder / "leaf.key").read_text() + (self.folder / "leaf.pem").read_text())
        return file

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
