"""The reliability endpoint: its counts are read, its texts are not."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from release_tasks.config.schema import LimitsConfig, ReliabilityConfig
from release_tasks.core.records import Pressure, ReliabilityReport
from release_tasks.service.reliability import fetch_reliability, over_limits

QUEUE = {"totalQueued": 2, "totalDispatching": 1, "totalSent": 9, "totalFailed": 4, "totalDeadLetters": 0}
CALLBACKS = {"totalAccepted": 5, "totalDuplicate": 1, "totalRejected": 2}


def answer(server: HTTPServer, body: Any, status: int = 200) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    server.expect_request("/reliability").respond_with_data(data, status=status, content_type="application/json")
    return server.url_for("/reliability")


def ask(url: str, **options: Any) -> ReliabilityReport:
    report = fetch_reliability(ReliabilityConfig(url=url, **options.pop("config", {})), **options)
    assert report is not None
    return report


def test_counts_are_read_and_texts_are_not(httpserver: HTTPServer) -> None:
    """The same answer has records of messages and codes."""
    queue = {**QUEUE, "recentRecords": [{"text": "PRIVATE"}], "deadLetterRecords": [{"code": "PRIVATE2"}]}
    report = ask(answer(httpserver, {"ok": True, "data": {"queue": queue, "callbacks": CALLBACKS}}))
    assert (report.status, report.over) == ("ok", [])
    assert report.pressure == Pressure(queued=3, failed=4, dead_letters=0, rejected_callbacks=2)
    assert "PRIVATE" not in str(report)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"<html>PRIVATE</html>", 200, "not JSON"),
        (b"\xff", 200, "not JSON"),
        (b'{"ok":true,"data":{"queue":{"totalFailed":0,"totalFailed":99}}}', 200, "the key 'totalFailed' twice"),
        (b"[" * 100_000, 200, "not JSON"),
        ([], 200, "unknown response format"),
        ({"ok": False, "data": {"queue": QUEUE}, "error": "PRIVATE"}, 200, "unknown response format"),
        ({"ok": True, "data": {"queue": None, "callbacks": None}}, 200, "neither queue nor callbacks"),
        ({"ok": True, "data": {"queue": {}}}, 200, "no counts"),
        ({"ok": True, "data": {"queue": {"total_queued": 1}, "callbacks": {}}}, 200, "no counts"),
        ({"error": "PRIVATE"}, 500, "HTTP 500"),
        ({}, 401, "the service rejected the signature"),
        ({}, 403, "the service rejected the signature"),
        ({}, 503, "HTTP 503"),
        (b"x" * (2 << 20), 200, "not JSON"),
    ],
)
def test_a_malformed_answer_is_unknown(httpserver: HTTPServer, body: Any, status: int, detail: str) -> None:
    """The detail has no text of the server."""
    report = ask(answer(httpserver, body, status))
    assert (report.status, report.pressure) == ("unknown", None)
    assert detail in report.detail and "PRIVATE" not in str(report)


@pytest.mark.parametrize("count", [True, -1, 1.5, "3", None, 10**400, [3]])
def test_a_malformed_count_is_unknown(httpserver: HTTPServer, count: Any) -> None:
    """It is neither zero nor an error: the other counts are still read."""
    queue = {**QUEUE, "totalFailed": count, "totalQueued": count, "totalDispatching": count}
    report = ask(answer(httpserver, {"ok": True, "data": {"queue": queue}}))
    assert report.pressure == Pressure(queued=None, failed=None, dead_letters=0, rejected_callbacks=None)


def test_requests_are_signed_with_the_secret_of_the_environment(httpserver: HTTPServer) -> None:
    """A signed request has a body; without a secret it has neither, and the detail names the variable."""
    seen: list[Request] = []

    def check(request: Request) -> Response:
        seen.append(request)
        right = "sha256=" + hmac.new(b"the secret", request.get_data(), hashlib.sha256).hexdigest()
        is_right = request.headers.get("X-Signature") == right
        body = json.dumps({"ok": True, "data": {"queue": QUEUE}})
        return Response(body if is_right else "{}", status=200 if is_right else 401)

    httpserver.expect_request("/reliability").respond_with_handler(check)
    url, config = httpserver.url_for("/reliability"), {"hmac_secret_env": "KEY_NAME", "bearer_token_env": "TOKEN_NAME"}
    report = ask(url, config=config, environ={"KEY_NAME": "the secret", "TOKEN_NAME": "a token"})
    assert report.status == "ok"
    assert (seen[0].method, seen[0].get_data(), seen[0].headers["Authorization"]) == ("GET", b"{}", "Bearer a token")
    report = ask(url, config=config, environ={"TOKEN_NAME": ""})
    assert "X-Signature" not in seen[1].headers and "Authorization" not in seen[1].headers
    assert report.detail.endswith("not set in this environment: KEY_NAME, TOKEN_NAME")


def test_a_secret_of_any_bytes_signs(httpserver: HTTPServer) -> None:
    """An environment variable may have any bytes."""
    url = answer(httpserver, {"ok": True, "data": {"queue": QUEUE}})
    assert ask(url, config={"hmac_secret_env": "KEY_NAME"}, environ={"KEY_NAME": "abc\udcff"}).status == "ok"
    sent = httpserver.log[0][0].headers["X-Signature"]
    assert sent == "sha256=" + hmac.new(b"abc\xff", b"{}", hashlib.sha256).hexdigest()


def test_a_refused_connection_is_unreachable(free_port: int) -> None:
    """Without a URL no request is sent; a password in the URL is not shown."""
    assert fetch_reliability(ReliabilityConfig()) is None
    report = ask(f"http://user:a-password@127.0.0.1:{free_port}/reliability")
    assert report.status == "unreachable"
    assert "refused the connection" in report.detail and "a-password" not in str(report)


def test_a_count_at_its_limit_passes() -> None:
    """Rejected callbacks count since the release; after a restore that lowered them they count from zero."""
    limits = LimitsConfig(queued=5, failed=5, dead_letters=0, rejected_callbacks=3)
    at = Pressure(queued=5, failed=5, dead_letters=0, rejected_callbacks=3)
    assert over_limits(at, limits) == []
    above = Pressure(queued=6, failed=6, dead_letters=1, rejected_callbacks=4)
    assert [text.split(" (")[0] for text in over_limits(above, limits)] == [
        "6 queued messages",
        "6 failed messages",
        "1 dead letters",
        "4 rejected callbacks",
    ]
    assert over_limits(above, limits, Pressure(rejected_callbacks=1))[-1].startswith("1 dead letters")
    assert over_limits(Pressure(rejected_callbacks=4), limits, Pressure(rejected_callbacks=900)) == [
        "4 rejected callbacks (limit 3)"
    ]
    assert over_limits(Pressure(), limits) == []
