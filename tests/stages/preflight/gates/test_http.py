"""HTTP gates against real servers, good and bad."""

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

from release_tasks.core.records import Check
from release_tasks.service.answer import Answer
from release_tasks.stages.preflight.gates.http import ExpectConfig, unmet_expectation

Checker = Callable[..., Check]


@pytest.fixture
def health(httpserver: HTTPServer) -> Callable[..., dict[str, Any]]:
    """Serve one answer at /health; returns the release settings that point at it."""

    def serve(body: str, status: int = 200, **headers: str) -> dict[str, Any]:
        httpserver.expect_request("/health").respond_with_data(body, status, headers)
        return {"health": {"url": httpserver.url_for("/health")}}

    return serve


@pytest.fixture
def unused_url() -> str:
    """A URL that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health"


def test_healthy_service_passes(check: Checker, health: Callable[..., Any]) -> None:
    """The envelope with status ok is a pass, with everything that was learned."""
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
        ("<html><title>Login</title>", 200, "HTTP 200, unknown health answer"),
        ('{"status": "o', 200, "unknown health answer"),
        ('{"hello": 1}', 200, "unknown health answer"),
        ('{"ok":false,"data":{"status":"ok"}}', 200, "HTTP 200, the answer has ok: false"),
        ('{"ok":false,"error":{"message":"no disk"}}', 503, "HTTP 503 (no disk)"),
        ("", 200, "the answer is empty"),
        ("x" * (2 << 20), 200, "larger than 1024 KiB"),
    ],
)
def test_bad_answers_fail_at_once(
    check: Checker, health: Callable[..., Any], body: str, status: int, detail: str
) -> None:
    """A negative answer fails without waiting, and names status, answer and next command."""
    release = health(body, status)
    release["health"]["deadline"] = "30s"
    began = time.monotonic()
    result = check({"http": "health"}, release=release)
    assert time.monotonic() - began < 5
    assert result.status == "failed"
    assert detail in result.detail
    assert result.diagnostics["httpStatus"] == status
    assert result.diagnostics["attempts"] == 1
    assert result.diagnostics["next"] == f"curl -sS -i --max-time 1 {release['health']['url']}"
    if body:
        assert result.diagnostics["bodyTail"][-1].endswith(body[-10:])


def test_degraded_parts_are_named_and_pass_unless_strict(check: Checker, health: Callable[..., Any]) -> None:
    """degraded passes with its parts named, and fails with strict."""
    data = {"status": "degraded", "mcpServers": [{"id": "files", "state": "error"}]}
    release = health(json.dumps({"ok": True, "data": data}))
    result = check({"http": "health"}, release=release)
    assert (result.status, result.diagnostics["status"]) == ("passed", "degraded")
    assert result.diagnostics["degraded"] == ["mcpServers.files: state error"]
    assert "mcpServers.files: state error" in result.detail
    assert check({"http": "health"}, release=release, strict=True).status == "failed"


def test_refused_connection_waits_for_the_deadline(check: Checker, unused_url: str) -> None:
    """A service that is down fails at the deadline, in a sentence."""
    began = time.monotonic()
    result = check({"http": "health"}, release={"health": {"url": unused_url}})
    assert 0.5 <= time.monotonic() - began < 10
    assert result.status == "failed"
    assert "not healthy within 500ms" in result.detail
    assert f"{unused_url} refused the connection: no process listens on this port." in result.detail
    assert result.diagnostics["httpStatus"] is None


def test_timeout_of_the_gate_is_its_deadline(check: Checker, unused_url: str) -> None:
    """A gate's own timeout says how long a service may take to come up."""
    release = {"health": {"url": unused_url, "deadline": "60s"}}
    began = time.monotonic()
    assert check({"http": "health", "timeout": "200ms"}, release=release).status == "failed"
    assert time.monotonic() - began < 10


def test_redirect_to_another_host_is_not_followed(check: Checker, health: Callable[..., Any], unused_url: str) -> None:
    """A login page elsewhere says nothing about the service."""
    release = health("", 302, Location=unused_url)
    result = check({"http": "health"}, release=release)
    assert result.status == "failed"
    assert f"redirects to another host: {unused_url}" in result.detail


def test_missing_health_url_says_what_to_set(check: Checker) -> None:
    """Without a URL the gate fails and says where to write one."""
    result = check({"http": "health"})
    assert result.status == "failed"
    assert result.detail == ("no health URL is configured: set release.health.url or type --health-url")


def test_health_url_of_the_command_line_wins(check: Checker, health: Callable[..., Any], unused_url: str) -> None:
    """--health-url is the one that is asked."""
    url = health("ok")["health"]["url"]
    result = check({"http": "health"}, health_url=url, release={"health": {"url": unused_url}})
    assert (result.status, result.diagnostics["url"]) == ("passed", url)


def test_secrets_in_url_and_body_are_redacted(
    check: Checker, health: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a password in the URL nor a secret in the body is recorded."""
    monkeypatch.setenv("ADMIN_PASSWORD", "correct-horse")
    release = health("boom correct-horse", 500)
    url = release["health"]["url"].replace("http://", "http://me:battery-staple@")
    result = check({"http": "health"}, release={"health": {"url": url}})
    assert "correct-horse" not in repr(result)
    assert "battery-staple" not in repr(result)
    assert result.diagnostics["bodyTail"] == ["boom [REDACTED]"]


def test_own_url_is_asked_once_it_can_be_reached(check: Checker, unused_url: str) -> None:
    """A URL of the gate's own is waited for while it refuses, until the timeout."""
    port = int(unused_url.split(":")[2].split("/")[0])
    server = HTTPServer(port=port)
    server.expect_request("/health").respond_with_data("welcome")
    starter = threading.Timer(0.3, server.start)
    starter.start()
    try:
        result = check({"http": unused_url, "timeout": "30s", "expect": {"text": "welcome"}})
    finally:
        starter.join()
        server.stop()
    assert (result.status, result.detail) == ("passed", "HTTP 200, as expected")
    assert result.diagnostics["attempts"] > 1


def test_own_url_that_stays_down_fails_at_the_timeout(check: Checker, unused_url: str) -> None:
    """The gate's timeout ends the waiting."""
    began = time.monotonic()
    result = check({"http": unused_url, "timeout": "300ms"})
    assert 0.3 <= time.monotonic() - began < 10
    assert result.detail == f"{unused_url} refused the connection: no process listens on this port."
    assert result.diagnostics["next"] == f"curl -sS -i --max-time 0.3 {unused_url}"


def test_own_url_that_hangs_fails_at_the_timeout(check: Checker, httpserver: HTTPServer) -> None:
    """A page that takes too long is a failed gate."""
    released = threading.Event()

    def slow(_: Request) -> Response:
        released.wait(5)
        return Response("late")

    httpserver.expect_request("/slow").respond_with_handler(slow)
    result = check({"http": httpserver.url_for("/slow"), "timeout": "300ms"})
    released.set()
    assert "gave no complete answer within 300ms" in result.detail


def test_unmet_expectation_fails_with_its_answer(check: Checker, httpserver: HTTPServer) -> None:
    """What was expected and what came are both in the result."""
    httpserver.expect_request("/v").respond_with_json({"build": {"tags": ["a", "b"]}})
    gate = {"http": httpserver.url_for("/v"), "expect": {"json": "build.tags.1", "equals": "c"}}
    result = check(gate)
    assert result.detail == 'HTTP 200, but build.tags.1 is "b", expected "c"'
    assert "tags" in "".join(result.diagnostics["bodyTail"])
    gate["expect"]["equals"] = "b"
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
def test_every_expectation_is_held(status: int, body: bytes, expect: dict[str, Any], problem: str | None) -> None:
    """Status, text and field each fail alone, and all given must hold."""
    answer = Answer(
        status=status,
        content_type="",
        body=body,
        is_truncated=False,
        elapsed_ms=0,
        url="http://127.0.0.1/",
    )
    assert unmet_expectation(answer, ExpectConfig(**expect)) == problem
