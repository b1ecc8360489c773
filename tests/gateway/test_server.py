"""Clients that are slow, silent, hostile or too many: each is ended, others are served, and the log stays small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from release_tasks.gateway.bodies import Bodies
from release_tasks.gateway.network import bind
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.server import GatewayServer, Limits
from release_tasks.gateway.service import create_app
from tests.support.gateway import RunningGateway
from tests.support.processes import await_true

SHORT = Limits(headers=0.3, body=0.3, reading=0.3, connections=64, discarded=256 * 1024)
HEAD = b"Host: 127.0.0.1\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HEAD + b"\r\n"


@define
class Server:
    """A gateway's server in a thread."""

    server: GatewayServer
    port: int
    clients: list[socket.socket] = field(factory=list)

    def connect(self, sent: bytes = b"", *, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        self.clients.append(client)
        client.connect(("127.0.0.1", self.port))
        client.sendall(sent)
        return client

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that serves a new gateway with the given limits."""
    started: list[tuple[Server, threading.Thread]] = []

    def start(limits: Limits = SHORT) -> Server:
        paths = GatewayPaths(tmp_path / "gateway")
        paths.initialise()
        server = GatewayServer(create_app(paths, is_rehearsal=True), limits)
        listener = bind("127.0.0.1", 0)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        started.append((Server(server, listener.getsockname()[1]), thread))
        await_true(lambda: server.started)
        return started[-1][0]

    yield start
    for served, thread in started:
        for client in served.clients:
            client.close()
        served.server.should_exit = True
        thread.join(10)


def receive_all(client: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            received += chunk
    return received


def receive(client: socket.socket, wanted: bytes) -> None:
    """Receive until the response has ``wanted``."""
    received = b""
    while wanted not in received:
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk


def drip(client: socket.socket, piece: bytes) -> None:
    """Send ``piece`` again and again until the server closes the connection."""
    client.settimeout(0.05)
    with contextlib.suppress(ConnectionError):
        for _ in range(400):
            client.sendall(piece)
            with contextlib.suppress(TimeoutError):
                if not client.recv(65536):
                    return
    raise AssertionError("the connection stayed open")


@pytest.mark.slow
def test_each_step_of_a_client_has_a_time_limit(serve: Callable[..., Server]) -> None:
    """Headers, the rest of a body, a response that is not read. Slow progress does not extend the limit."""
    server = serve()
    silent, headers = server.connect(), server.connect(b"GET / HTTP/1.1\r\n")
    rest = server.connect(b"POST /nowhere HTTP/1.1\r\n" + HEAD + b"Content-Length: 900\r\n\r\nx")
    server.connect((b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n") * 900, receive_buffer=4096)
    dripping = server.connect(b"GET / HTTP/1.1\r\n")
    again = server.connect(LIVE + b"GET /health/live HTTP/1.1\r\n")
    assert receive_all(silent) == b""
    late = receive_all(headers)
    assert late.startswith(b"HTTP/1.1 408") and json.loads(late.partition(b"\r\n\r\n")[2])["ok"] is False
    assert receive_all(rest).startswith(b"HTTP/1.1 404")
    assert re.findall(rb"HTTP/1.1 (\d+)", receive_all(again)) == [b"200", b"408"]
    with contextlib.suppress(AssertionError):
        drip(dripping, b"X: y\r\n")
    await_true(lambda: server.connections == 0)


def test_a_body_that_no_endpoint_reads_is_discarded_up_to_a_limit(serve: Callable[..., Server]) -> None:
    """The response of the endpoint arrives in any case; then a client that goes on is disconnected."""
    server = serve(Limits(discarded=256 * 1024))
    client = server.connect(b"POST /nowhere HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 404")
    with pytest.raises(ConnectionError):
        for _ in range(10_000):
            client.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    small = server.connect(
        b"POST /nowhere HTTP/1.1\r\n" + HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 90_000 + LIVE
    )
    receive(small, b"alive")


def test_with_too_many_connections_the_ones_that_waited_longest_are_closed(serve: Callable[..., Server]) -> None:
    """A client that sends its request at once is served, however many others wait."""
    server = serve(Limits(connections=16))
    waiting = []
    for _ in range(10):
        waiting += [server.connect(b"GET / HTTP/1.1\r\n") for _ in range(16)]
        receive(server.connect(LIVE), b"alive")
        await_true(lambda: server.connections <= 17)
    assert receive_all(waiting[0]) == b""


@pytest.mark.slow
def test_unread_responses_are_limited_together(serve: Callable[..., Server]) -> None:
    """A client that reads keeps its connection; those that do not are closed, oldest first."""
    server = serve(Limits(unread=64 * 1024))
    for _ in range(3):
        server.connect((b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n") * 600, receive_buffer=4096)
    client = server.connect(LIVE)
    receive(client, b"alive")
    await_true(lambda: server.connections <= 2)
    client.sendall(LIVE)
    receive(client, b"alive")


HOSTILE = [
    b"\x00\xff\x16\x03\x01",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 70_000,
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Content-Length: -1\r\n\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}garbage garbage\r\n\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /nowhere HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    b"POST /messages HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT evil.example:80 HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    LIVE * 500,
    b"GET /health/live HTTP/1.0\r\n" + HEAD + b"\r\n",
    b"POST /callback HTTP/1.1\r\n" + HEAD + b"Idempotency-Key: \x80\xff\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /messages?limit=%ff%00 HTTP/1.1\r\n" + HEAD + b"\r\n",
]


@pytest.mark.slow
def test_no_request_causes_a_traceback_or_a_long_log(gateway: RunningGateway) -> None:
    """Each is sent whole and cut off at some points, by clients that reset the connection or wait for the response."""
    port = int(gateway.url.rpartition(":")[2])
    for number, sent in enumerate(HOSTILE * 3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client, contextlib.suppress(OSError):
            client.sendall(sent if number < len(HOSTILE) else sent[: len(sent) * (number % 7 + 1) // 8])
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            else:
                client.shutdown(socket.SHUT_WR)
                status = client.recv(65536).split()[1:2]
                assert not status or not status[0].startswith(b"5"), (sent[:80], status)
    assert gateway.health()["status"] == "ok"
    log = gateway.home.log_file.read_text()
    assert "Traceback" not in log and len(log) < 20_000, log


@pytest.mark.slow
def test_a_lack_of_files_ends_with_the_clients_that_cause_it(gateway: RunningGateway) -> None:
    """Connections are closed, so the gateway answers again, and the log stays short."""
    port = int(gateway.url.rpartition(":")[2])
    assert gateway.health()["status"] == "ok"
    hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)[1]
    files = len(os.listdir(f"/proc/{gateway.pid}/fd"))
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (files + 30, hard))
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(100)]
    await_true(lambda: "a connection failed: Too many open files" in gateway.home.log_file.read_text())
    await_true(lambda: gateway.get("/health").status_code == 200)
    for each in waiting:
        each.close()
    await_true(lambda: gateway.health()["status"] == "ok")
    log = gateway.home.log_file.read_text()
    assert "Traceback" not in log and len(log) < 20_000, log


@pytest.mark.slow
def test_lists_that_are_not_read_do_not_fill_the_memory(gateway: RunningGateway) -> None:
    """A list of 200 long messages has 3 MB; 100 clients ask for it and read nothing, and health answers."""
    port = int(gateway.url.rpartition(":")[2])
    for _ in range(200):
        gateway.post("/messages", json={"channel": "c", "to": "1", "text": "x" * 16_000})
    before = gateway.process.memory_info().rss
    request = b"GET /messages?limit=500 HTTP/1.1\r\n" + HEAD + b"\r\n"
    with contextlib.ExitStack() as clients:
        for _ in range(100):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(request)
        for _ in range(5):
            assert gateway.health()["status"] == "ok"
        assert gateway.process.memory_info().rss - before < 150 * 2**20


@pytest.fixture(scope="module")
def with_webhook(start_shared: Callable[..., RunningGateway]) -> RunningGateway:
    """Return a gateway with an open webhook."""
    return start_shared({"WHATSAPP_APP_SECRET": "an app secret"})


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"X-Hub-Signature-256: x\r\nContent-Length: 1000000\r\n", b"403"),
        (b"X-Hub-Signature-256: sha256=" + b"0" * 63 + b"\r\nTransfer-Encoding: chunked\r\n", b"403"),
        (b"Content-Length: 1000000\r\n", b"401"),
        (b"X-Hub-Signature-256: sha256=" + b"0" * 64 + b"\r\nContent-Length: 2000000\r\n", b"413"),
    ],
)
def test_an_impossible_signature_or_size_is_refused_before_the_body(
    with_webhook: RunningGateway, lines: bytes, status: bytes
) -> None:
    """No byte of the body was sent yet."""
    port = int(with_webhook.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"POST /webhooks/whatsapp HTTP/1.1\r\n" + HEAD + lines + b"\r\n")
        assert client.recv(4096).split()[1] == status


def _request(*chunks: bytes, released: asyncio.Event | None = None) -> Request:
    """Return a request whose last chunk arrives when ``released`` is set."""
    rest = list(chunks)

    async def receive() -> dict[str, Any]:
        if released is not None and len(rest) == 1:
            await released.wait()
        return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

    return Request({"type": "http", "headers": []}, receive)


def test_the_oldest_body_gives_way_when_all_are_too_large_together() -> None:
    """Its client gets 503 and may send it again; the others are read."""

    async def read() -> None:
        bodies, released = Bodies(limit=1000), asyncio.Event()
        slow = [
            asyncio.create_task(bodies.read(_request(b"x" * 400, b"x", released=released), 10_000)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        assert await bodies.read(_request(b"y" * 600), 10_000) == b"y" * 600
        released.set()
        refused, read = await asyncio.gather(*slow, return_exceptions=True)
        assert isinstance(refused, HTTPException) and refused.status_code == 503 and read == b"x" * 401
        assert await bodies.read(_request(b"z" * 1000), 1000) == b"z" * 1000

    asyncio.run(read())
