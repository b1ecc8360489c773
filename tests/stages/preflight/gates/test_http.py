"""HTTP gates with real servers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from release_tasks.config.endpoint import ExpectConfig
from release_tasks.core.events import Event, HealthAnswered
from release_tasks.core.records import Check
from release_tasks.service import request
from release_tasks.service.expectation import unmet_expectation
from release_tasks.service.response import HttpResponse

Checker = Callable[..., Check]


@pytest.fixture
def health(httpserver: HTTPServer) -> Callable[..., dict[str, Any]]:
    """Serve one answer at /health; return the release settings with its URL."""

    def serve(body: str, status: int = 200, **headers: str) -> dict[str, Any]:
        httpserver.expect_request("/health").respond_with_data(body, status, headers)
        return {"health": {"url": httpserver.url_for("/health")}}

    return serve


@pytest.fixture
def unused_url() -> str:
    """Return a URL that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health"


def test_a_healthy_service_passes(check: Checker, health: Callable[..., Any]) -> None:
    """The envelope with status ok passes, and the result has all details."""
    release = health('{"ok":true,"data":{"status":"ok"}}')
    url = release["health"]["url"]
    result = check({"http": "health"}, release=release)
    assert (result.status, result.detail) == ("passed", "HTTP 200, status ok")
    assert result.command == f"GET {url}"
    (attempt,) = result.diagnostics.pop("history")
    assert (attempt["status"], attempt["passed"], attempt["httpStatus"]) == ("ok", True, 200)
    assert result.diagnostics == {
        "url": url,
        "httpStatus": 200,
        "status": "ok",
        "degraded": [],
        "attempts": 1,
    }


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("<h1>Internal error</h1>", 500, "HTTP 500"),
        ("<html><title>Login</title>", 200, "HTTP 200 with a text"),
        ('{"status": "o', 200, "HTTP 200 with a text"),
        ('{"hello": 1}', 200, "HTTP 200 with a JSON object (hello)"),
        ('{"ok":false,"data":{"status":"ok"}}', 200, "HTTP 200, ok: false"),
        ('{"ok":false,"error":{"message":"no disk"}}', 503, "HTTP 503 (no disk)"),
        ("", 200, "the response is empty"),
        ("x" * (2 << 20), 200, "larger than 1024 KiB"),
    ],
)
def test_a_bad_answer_fails_immediately(
    check: Checker, health: Callable[..., Any], body: str, status: int, detail: str
) -> None:
    """A negative answer fails without a wait and names status, answer and next command."""
    release = health(body, status)
    release["health"]["deadline"] = "30s"
    started = time.monotonic()
    result = check({"http": "health"}, release=release)
    assert time.monotonic() - started < 5
    assert result.status == "failed"
    assert detail in result.detail
    assert result.diagnostics["httpStatus"] == status
    assert result.diagnostics["attempts"] == 1
    assert result.diagnostics["next"] == f"curl -sS -i --max-time 1 {release['health']['url']}"
    if body:
        assert result.diagnostics["bodyTail"][-1].endswith(body[-10:])


def test_a_degraded_service_passes_unless_strict(check: Checker, health: Callable[..., Any]) -> None:
    """The message names the degraded parts; with strict the gate fails."""
    data = {"status": "degraded", "mcpServers": [{"id": "files", "state": "error"}]}
    release = health(json.dumps({"ok": True, "data": data}))
    result = check({"http": "health"}, release=release)
    assert (result.status, result.diagnostics["status"]) == ("passed", "degraded")
    assert result.diagnostics["degraded"] == ["mcpServers.files: state error"]
    assert "mcpServers.files: state error" in result.detail
    assert check({"http": "health"}, release=release, strict=True).status == "failed"


def test_a_refused_connection_waits_for_the_deadline(check: Checker, unused_url: str) -> None:
    """A service that is down fails at the deadline."""
    started = time.monotonic()
    result = check({"http": "health"}, release={"health": {"url": unused_url}})
    assert 0.5 <= time.monotonic() - started < 10
    assert result.status == "failed"
    assert "not healthy within 500ms" in result.detail
    assert f"{unused_url} refused the connection: no process listens on this port." in result.detail
    assert result.diagnostics["httpStatus"] is None


def test_the_timeout_of_the_gate_is_its_deadline(check: Checker, unused_url: str) -> None:
    """It limits the start of the service."""
    release = {"health": {"url": unused_url, "deadline": "60s"}}
    started = time.monotonic()
    assert check({"http": "health", "timeout": "200ms"}, release=release).status == "failed"
    assert time.monotonic() - started < 10


def test_a_redirect_to_another_host_is_not_followed(
    check: Checker, health: Callable[..., Any], unused_url: str
) -> None:
    """A login page on another host is not the service."""
    release = health("", 302, Location=unused_url)
    result = check({"http": "health"}, release=release)
    assert result.status == "failed"
    assert f"redirects to another host: {unused_url}" in result.detail


def test_a_missing_health_url_names_the_key_to_set(check: Checker) -> None:
    """The gate fails without a URL."""
    result = check({"http": "health"})
    assert result.status == "failed"
    assert result.detail == ("no health URL is configured: set release.health.url or type --health-url")


def test_the_health_url_of_the_command_line_wins(check: Checker, health: Callable[..., Any], unused_url: str) -> None:
    """The gate requests --health-url."""
    url = health("ok")["health"]["url"]
    result = check({"http": "health"}, health_url=url, release={"health": {"url": unused_url}})
    assert (result.status, result.diagnostics["url"]) == ("passed", url)


def test_secrets_in_url_and_body_are_redacted(
    check: Checker, health: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password in the URL and a secret in the body are not recorded."""
    monkeypatch.setenv("ADMIN_PASSWORD", "correct-horse")
    release = health("boom correct-horse", 500)
    url = release["health"]["url"].replace("http://", "http://me:battery-staple@")
    result = check({"http": "health"}, release={"health": {"url": url}})
    assert "correct-horse" not in repr(result)
    assert "battery-staple" not in repr(result)
    assert result.diagnostics["bodyTail"] == ["boom [REDACTED]"]


def test_the_own_url_of_a_gate_is_awaited(check: Checker, unused_url: str) -> None:
    """A URL that refuses connections is retried until the timeout."""
    port = int(unused_url.split(":")[2].split("/")[0])
    server = HTTPServer(port=port)
    server.expect_request("/health").respond_with_data("welcome")

    def start_after_the_first_attempt(event: Event) -> None:
        if isinstance(event, HealthAnswered) and not server.is_running():
            server.start()

    gate = {"http": unused_url, "timeout": "30s", "expect": {"text": "welcome"}}
    try:
        result = check(gate, emit=start_after_the_first_attempt)
    finally:
        server.stop()
    assert (result.status, result.detail) == ("passed", "HTTP 200, as expected")
    assert result.diagnostics["attempts"] > 1


def test_an_own_url_that_stays_down_fails_at_the_timeout(check: Checker, unused_url: str) -> None:
    """The gate's timeout ends the retries."""
    started = time.monotonic()
    result = check({"http": unused_url, "timeout": "300ms"})
    assert 0.3 <= time.monotonic() - started < 10
    assert result.detail == f"{unused_url} refused the connection: no process listens on this port."
    assert result.diagnostics["next"] == f"curl -sS -i --max-time 0.3 {unused_url}"


def test_an_own_url_that_hangs_fails_at_the_timeout(check: Checker, httpserver: HTTPServer) -> None:
    """A page that takes too long is a failed gate."""
    released = threading.Event()

    def slow(_: Request) -> Response:
        released.wait(5)
        return Response("late")

    httpserver.expect_request("/slow").respond_with_handler(slow)
    result = check({"http": httpserver.url_for("/slow"), "timeout": "300ms"})
    released.set()
    assert "gave no complete response within 300ms" in result.detail


def test_an_unmet_expectation_fails_with_its_answer(check: Checker, httpserver: HTTPServer) -> None:
    """The result has the expectation and the answer."""
    httpserver.expect_request("/v").respond_with_json({"build": {"tags": ["a", "b"]}})
    expect = {"json": "build.tags.1", "equals": "c"}
    gate = {"http": httpserver.url_for("/v"), "expect": expect}
    result = check(gate)
    assert result.detail == 'HTTP 200, but build.tags.1 is "b", expected "c"'
    assert "tags" in "".join(result.diagnostics["bodyTail"])
    expect["equals"] = "b"
    assert check(gate).status == "passed"


@pytest.mark.parametrize(
    ("status", "body", "expect", "problem"),
    [
        (204, b"", {}, None),
        (302, b"", {}, "HTTP 302, expected 200 to 299"),
        (404, b"", {"status": 404}, None),
        (200, b"", {"status": 404}, "HTTP 200, expected 404"),
        (200, b"hello", {"text": "ell"}, None),
        (200, b"hello", {"text": "bye"}, "HTTP 200, but the body does not contain 'bye'"),
        (200, b"{", {"json": "a"}, "HTTP 200, but the body is not JSON"),
        (200, b"\xff", {"json": "a"}, "HTTP 200, but the body is not JSON"),
        (200, b"[" * 99999, {"json": "a"}, "HTTP 200, but the body is not JSON"),
        (200, b'{"a":null}', {"json": "a"}, None),
        (200, b'{"a":{}}', {"json": "a.b"}, "HTTP 200, but the body has no field 'a.b'"),
        (200, b'{"a":[1]}', {"json": "a.1"}, "HTTP 200, but the body has no field 'a.1'"),
        (200, b'{"a":[1]}', {"json": "a.0", "equals": 1}, None),
        (200, b'{"a":1}', {"json": "a", "equals": True}, "HTTP 200, but a is 1, expected true"),
        (200, b'{"a":true}', {"json": "a", "equals": 1}, "HTTP 200, but a is true, expected 1"),
        (200, b'{"a":"x"}', {"text": "x", "json": "a", "equals": "x"}, None),
    ],
)
def test_every_expectation_must_hold(status: int, body: bytes, expect: dict[str, Any], problem: str | None) -> None:
    """Status, text and field fail separately."""
    answer = HttpResponse(
        status=status,
        content_type="",
        body=body,
        is_truncated=False,
        elapsed_ms=0,
        url="http://127.0.0.1/",
    )
    assert unmet_expectation(answer, ExpectConfig(**expect)) == problem


@pytest.mark.parametrize("filler", ["x\n", "x "])
def test_a_body_that_was_cut_ends_before_half_of_a_secret(
    check: Checker, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, filler: str
) -> None:
    """Only the first bytes of a large answer are read; the last of them may be the first half of a secret."""
    secret = "Zq9w8e7r6t5y4u3i2o1pLkJhGfDsAzXcVbNm7Q8W"
    monkeypatch.setenv("API_TOKEN", secret)
    limit = request.Request(url="", timeout=1.0).max_bytes
    begin = (filler * limit)[: limit - len(secret) + 6]
    httpserver.expect_request("/x").respond_with_data(begin + secret + "y" * 100)
    result = check({"http": httpserver.url_for("/x"), "expect": {"text": "ready"}})
    assert result.status == "failed"
    assert result.diagnostics["bodyTail"] and secret[:8] not in str(result)
