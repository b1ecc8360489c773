"""Health requests to real servers that refuse, hang, dribble, flood and answer wrongly."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from release_tasks.config.schema import HealthConfig
from release_tasks.core.events import Event, HealthAnswered
from release_tasks.core.options import Duration
from release_tasks.core.records import HealthReport
from release_tasks.service.http import fetch
from release_tasks.service.request import Request
from release_tasks.service.response import ProbeError
from release_tasks.service.wait import poll_health

Serve = Callable[[Callable[[socket.socket], object]], str]


def config(url: str | None = None, timeout: float = 1.0, deadline: float = 2.0, interval: float = 0.05) -> HealthConfig:
    """Return a health configuration with short times."""
    return HealthConfig(url=url, timeout=Duration(timeout), deadline=Duration(deadline), interval=Duration(interval))


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return the bytes of a complete HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_request(connection: socket.socket) -> bytes:
    """Read until the end of the request's header."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def send_all(*answers: bytes) -> Callable[[socket.socket], object]:
    """Return a conversation that sends the next of ``answers``; the last one repeats."""
    left = list(answers)
    lock = threading.Lock()

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        with lock:
            data = left.pop(0) if len(left) > 1 else left[0]
        connection.sendall(data)

    return talk


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers on free ports; a function gets each connection, which is closed after it."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    open_connections: list[socket.socket] = []

    def one(talk: Callable[[socket.socket], object], connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)

    def start(talk: Callable[[socket.socket], object]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                open_connections.append(connection)
                thread = threading.Thread(target=one, args=(talk, connection), daemon=True)
                threads.append(thread)
                thread.start()

        thread = threading.Thread(target=accept, daemon=True)
        threads.append(thread)
        thread.start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for connection in open_connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def unused_url() -> str:
    """Return a URL that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health"


# One request


def test_an_answer_has_status_type_and_body(serve: Serve) -> None:
    """The values are those that were sent."""
    sent = response(b'{"a":1}', "201 Created", "Content-Type: application/json")
    got = fetch(Request(url=serve(send_all(sent)), timeout=5))
    assert (got.status, got.content_type, got.body) == (201, "application/json", b'{"a":1}')
    assert not got.is_truncated


def test_method_body_and_headers_are_sent(serve: Serve) -> None:
    """A signed request reaches the server unchanged."""
    seen: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(response(b"ok"))

    fetch(Request(url=serve(talk), timeout=5, method="POST", body=b"{}", headers={"X-Signature": "sha256=1"}))
    assert seen[0].startswith(b"POST /health ")
    assert b"X-Signature: sha256=1\r\n" in seen[0]
    assert b"Connection: close\r\n" in seen[0]


def test_a_refused_connection_is_a_message(unused_url: str) -> None:
    """It has its own kind, and no repr of a library in its message."""
    with pytest.raises(ProbeError) as caught:
        fetch(Request(url=unused_url, timeout=5))
    assert caught.value.kind == "refused"
    assert caught.value.message == f"{unused_url} refused the connection: no process listens on this port."


def test_a_silent_server_ends_at_the_timeout(serve: Serve) -> None:
    """A server that accepts and sends nothing costs one timeout."""
    url = serve(lambda connection: connection.recv(1 << 20) and connection.recv(1))
    started = time.monotonic()
    with pytest.raises(ProbeError) as caught:
        fetch(Request(url=url, timeout=0.3))
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 8
    assert caught.value.message == f"{url} gave no complete response within 300ms."


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_slow_server_ends_at_the_timeout(serve: Serve, head: bytes) -> None:
    """One byte at a time, in header or body, does not extend the timeout."""
    hung_up = threading.Event()

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Pad: " + b"x" * 100_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            hung_up.set()

    started = time.monotonic()
    with pytest.raises(ProbeError) as caught:
        fetch(Request(url=serve(talk), timeout=0.4))
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 8
    assert hung_up.wait(5), "the connection was left open"


def test_a_huge_body_is_read_up_to_the_limit(serve: Serve) -> None:
    """1 MiB of 100 MiB is read, and the connection is closed."""
    sent = 0
    hung_up = threading.Event()

    def talk(connection: socket.socket) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 << 20))
        try:
            while sent < 100 << 20:
                sent += connection.send(b"x" * 65536)
        except OSError:
            hung_up.set()

    got = fetch(Request(url=serve(talk), timeout=5))
    assert got.is_truncated
    assert len(got.body) == 1 << 20
    assert hung_up.wait(5)
    assert sent < 100 << 20


def test_a_truncated_body_is_an_error(serve: Serve) -> None:
    """Half a body is not parsed."""
    half = response(b'{"status":"ok"}' * 100)[:-50]
    with pytest.raises(ProbeError, match="closed the connection") as caught:
        fetch(Request(url=serve(send_all(half)), timeout=5))
    assert caught.value.kind == "refused"


def test_a_response_that_is_not_http_is_an_error(serve: Serve) -> None:
    """The message names the port; no exception of a library is raised."""
    with pytest.raises(ProbeError, match="not valid HTTP") as caught:
        fetch(Request(url=serve(send_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")), timeout=5))
    assert caught.value.kind == "other"


def test_a_tls_failure_has_its_own_kind(serve: Serve) -> None:
    """https on a plain port is a TLS failure."""
    url = serve(lambda connection: connection.sendall(response(b"ok")))
    url = url.replace("http://", "https://")
    with pytest.raises(ProbeError) as caught:
        fetch(Request(url=url, timeout=5))
    assert caught.value.kind == "tls"


def test_a_redirect_on_the_same_host_is_followed(serve: Serve) -> None:
    """A relative redirect is followed to its end."""
    moved = response(b"", "302 Found", "Location: /other")
    url = serve(send_all(moved, response(b"ok")))
    got = fetch(Request(url=url, timeout=5))
    assert (got.status, got.body) == (200, b"ok")
    assert got.url == url.replace("/health", "/other")


def test_a_redirect_to_another_host_is_refused(serve: Serve) -> None:
    """Another port or scheme is refused too, and the message has both addresses."""
    asked: list[bytes] = []
    elsewhere = serve(lambda connection: asked.append(read_request(connection)))
    for target in (elsewhere, "//localhost/health", "file:///etc/passwd", "http://[bad"):
        url = serve(send_all(response(b"", "302 Found", f"Location: {target}")))
        with pytest.raises(ProbeError) as caught:
            fetch(Request(url=url, timeout=5))
        assert caught.value.kind == "redirect"
        assert url in caught.value.message
        assert target in caught.value.message
    assert not asked


def test_the_body_of_a_redirect_is_not_read(serve: Serve) -> None:
    """A redirect with an endless body costs nothing."""

    def talk(connection: socket.socket) -> None:
        path = read_request(connection).split()[1]
        if path == b"/other":
            connection.sendall(response(b"ok"))
            return
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    assert fetch(Request(url=serve(talk), timeout=5)).body == b"ok"


def test_a_redirect_loop_ends(serve: Serve) -> None:
    """The limit is five redirects."""
    url = serve(send_all(response(b"", "301 Moved", "Location: /health")))
    with pytest.raises(ProbeError, match="more than 5 times"):
        fetch(Request(url=url, timeout=5))


def test_proxies_of_the_environment_are_not_used(
    serve: Serve, unused_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is down does not affect a local service."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, unused_url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch(Request(url=serve(send_all(response(b"ok"))), timeout=5)).body == b"ok"


@pytest.mark.parametrize(
    "url",
    ["", "localhost:3100", "ftp://x/", "http://", "http://a:99999/", "http://[::1/", "http://a b/"],
)
def test_a_malformed_url_is_a_message(url: str) -> None:
    """No exception of a library is raised."""
    with pytest.raises(ProbeError, match="is not an http") as caught:
        fetch(Request(url=url, timeout=1))
    assert caught.value.kind == "invalid"


def test_an_unknown_host_is_named() -> None:
    """The message has the host name."""
    with pytest.raises(ProbeError, match=r"nowhere\.invalid") as caught:
        fetch(Request(url="http://nowhere.invalid/", timeout=5))
    assert caught.value.kind in ("other", "timeout")


def test_no_thread_stays_after_a_timeout(serve: Serve) -> None:
    """The thread of the request ends with it."""
    url = serve(lambda connection: connection.recv(1 << 20) and connection.recv(1))
    for _ in range(3):
        with pytest.raises(ProbeError):
            fetch(Request(url=url, timeout=0.05))
    for thread in threading.enumerate():
        if thread.name == "probe":
            thread.join(2)
            assert not thread.is_alive()


# Waiting until the service is healthy


def test_without_a_url_nothing_is_requested() -> None:
    """A missing URL is a failure that names the key to set."""
    report = poll_health(config(), passes=1)
    assert (report.passed, report.status, report.attempts) == (False, "unknown", 0)
    assert report.detail == ("no health URL is configured: set release.health.url or type --health-url")


def test_a_refused_connection_counts_as_starting(unused_url: str) -> None:
    """A service that starts before the deadline passes, also with fail_fast."""
    port = int(unused_url.split(":")[2].split("/")[0])
    seen: list[HealthReport] = []
    streaks: list[int] = []
    up: list[ThreadingHTTPServer] = []

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    def start_after_two(event: Event) -> None:
        assert isinstance(event, HealthAnswered)
        seen.append(event.report)
        streaks.append(event.streak)
        assert event.needed == 2 and 0 < event.left < 10
        if len(seen) == 2:
            server = ThreadingHTTPServer(("127.0.0.1", port), Healthy)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            up.append(server)

    try:
        report = poll_health(
            config(unused_url, deadline=10),
            passes=2,
            fail_fast=True,
            emit=start_after_two,
        )
    finally:
        for server in up:
            server.shutdown()
            server.server_close()
    assert (report.passed, report.status, report.http_status) == (True, "ok", 200)
    assert [item.status for item in seen] == ["unreachable", "unreachable", "ok", "ok"]
    assert [item.passed for item in seen] == [False, False, False, True]
    assert streaks == [0, 0, 1, 2]


@pytest.mark.slow
def test_a_refused_connection_fails_at_the_deadline(unused_url: str) -> None:
    """The message has the number of attempts."""
    started = time.monotonic()
    report = poll_health(config(unused_url), passes=1, deadline=3)
    assert 3 <= time.monotonic() - started < 8
    assert (report.passed, report.status) == (False, "unreachable")
    assert report.attempts > 2
    assert f"not healthy within 3s ({report.attempts} requests)" in report.detail
    assert "refused the connection" in report.detail


@pytest.mark.slow
def test_a_hanging_service_fails_at_the_deadline(serve: Serve) -> None:
    """Hanging requests are repeated and end shortly after the deadline."""
    url = serve(lambda connection: connection.recv(1 << 20) and connection.recv(1))
    started = time.monotonic()
    report = poll_health(config(url, timeout=0.2), passes=1, deadline=0.5, fail_fast=True)
    assert time.monotonic() - started < 8
    assert report.status == "unreachable"
    assert report.attempts >= 2


@pytest.mark.parametrize(
    "reply",
    [
        response(b"boom", "500 Internal Server Error"),
        response(b'{"ok":false}'),
        response(b"<html>"),
        response(b"", "302 Found", "Location: http://192.0.2.1/"),
    ],
)
def test_a_negative_answer_ends_the_wait_with_fail_fast(serve: Serve, reply: bytes) -> None:
    """With fail_fast a negative answer is not repeated; without, it is."""
    url = serve(send_all(reply))
    assert poll_health(config(url), passes=1, fail_fast=True).attempts == 1
    assert poll_health(config(url), passes=1, deadline=0.2).attempts > 1


def test_every_attempt_is_recorded(serve: Serve) -> None:
    """Each has its result, time and duration, without secrets and long texts."""
    url = serve(send_all(response(b"", "503 Unavailable"), response(b"ok")))
    report = poll_health(config(url, deadline=5), passes=2)
    assert [(a.status, a.passed, a.http_status) for a in report.history] == [
        ("failed", False, 503),
        ("ok", True, 200),
        ("ok", True, 200),
    ]
    assert [a.at for a in report.history] == sorted(a.at for a in report.history)
    assert all(0 <= a.latency_ms <= report.duration_ms for a in report.history)


@pytest.mark.slow
def test_the_first_and_last_attempts_are_recorded(serve: Serve) -> None:
    """The record is limited: 5 attempts from the start, 45 from the end."""
    bad, good = response(b"", "503 Unavailable"), response(b"ok")
    url = serve(send_all(*[bad] * 4, *[good] * 80))
    report = poll_health(config(url, interval=0.01, deadline=30), passes=70)
    assert report.attempts == 74
    assert [a.passed for a in report.history] == [False] * 4 + [True] * 46


def test_passes_must_be_consecutive(serve: Serve) -> None:
    """A failure in between resets the count."""
    good, bad = response(b"ok"), response(b"", "503 Unavailable")
    url = serve(send_all(good, good, bad, good))
    report = poll_health(config(url, deadline=5), passes=3)
    assert (report.passed, report.attempts) == (True, 6)


def test_too_few_passes_by_the_deadline_fail(serve: Serve) -> None:
    """The message says how many passes there were."""
    url = serve(send_all(response(b"ok")))
    report = poll_health(config(url), passes=1000, deadline=0.2)
    assert (report.passed, report.status) == (False, "ok")
    assert " of 1000 consecutive healthy responses" in report.detail


def test_deadline_zero_is_one_request(serve: Serve, unused_url: str) -> None:
    """The first answer decides."""
    healthy = poll_health(config(serve(send_all(response(b"ok")))), passes=3, deadline=0)
    assert (healthy.passed, healthy.attempts) == (True, 1)
    down = poll_health(config(unused_url), passes=1, deadline=0)
    assert (down.passed, down.attempts) == (False, 1)


def test_degraded_passes_unless_strict(serve: Serve) -> None:
    """With strict, degraded is a failure."""
    url = serve(send_all(response(b'{"ok":true,"data":{"status":"degraded"}}')))
    assert poll_health(config(url), passes=1).passed
    report = poll_health(config(url), passes=1, strict=True, fail_fast=True)
    assert (report.passed, report.status) == (False, "degraded")
    assert "--strict" in report.detail


def test_a_malformed_url_is_not_retried() -> None:
    """It ends immediately, without an exception."""
    report = poll_health(config("http://.example/"), passes=1)
    assert (report.passed, report.status, report.attempts) == (False, "unknown", 1)


@pytest.mark.parametrize("is_silent", [True, False])
def test_cancelling_takes_effect_immediately(serve: Serve, unused_url: str, is_silent: bool) -> None:
    """This holds in a pause and in a request."""
    silent = serve(lambda connection: connection.recv(1 << 20) and connection.recv(1))
    cancelled = threading.Event()
    timer = threading.Timer(0.2, cancelled.set)
    timer.start()
    started = time.monotonic()
    report = poll_health(
        config(silent if is_silent else unused_url, timeout=30, deadline=60, interval=30),
        passes=1,
        cancelled=cancelled,
    )
    timer.join()
    assert time.monotonic() - started < 8
    assert not report.passed


def test_secrets_in_an_answer_are_redacted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that repeats a secret does not get it into the record."""
    monkeypatch.setenv("MY_API_TOKEN", "correct-horse")
    body = b'{"ok":false,"error":{"message":"bad key correct-horse"}}'
    report = poll_health(config(serve(send_all(response(body)))), passes=1, deadline=0)
    assert "correct-horse" not in report.detail
    assert "[REDACTED]" in report.detail


def test_a_stage_without_requests_loads_no_http_library() -> None:
    """The start gate of a service is a recover, and the service waits for it."""
    stages = "release_tasks.stages.rollback.engine, release_tasks.stages.rollback.recovery"
    code = f"import sys, {stages}; print('requests' in sys.modules, 'urllib3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
