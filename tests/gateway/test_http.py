"""HTTP requests and answers of the service: always JSON, always limited."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from release_tasks.gateway import service
from release_tasks.gateway.paths import GatewayPaths
from tests.support.gateway import RunningGateway

MESSAGE = {"channel": "telegram", "to": "4711", "text": "a private text"}


def _signed(secret: str, body: bytes) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Signature": f"sha256={digest}"}


@pytest.mark.slow
def test_a_message_is_stored_and_listed_last(shared: RunningGateway) -> None:
    """A message gets an id and is listed immediately; the limit counts from the latest."""
    ids = []
    for number in range(3):
        answer = shared.post("/messages", json={**MESSAGE, "text": f"number {number}"})
        assert answer.status_code == 202 and answer.json()["ok"] is True
        ids.append(answer.json()["data"]["id"])
    listed = shared.get("/messages", params={"limit": "2"}).json()["data"]["messages"]
    assert [message["id"] for message in listed] == ids[1:]
    assert {"id", "channel", "to", "text", "state"} <= set(listed[-1])
    assert listed[-1]["text"] == "number 2"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 30_000,
        b'{"channel": "telegram", "to": "1"}',
        b'{"channel": "telegram", "to": "", "text": "x"}',
        b'{"channel": "telegram", "to": 1, "text": "x"}',
        b'{"channel": "../x", "to": "1", "text": "x"}',
        b'{"channel": "telegram", "to": "1", "text": "\\ud800"}',
        b'{"channel": "telegram", "to": "1", "text": "\xff"}',
        json.dumps({**MESSAGE, "text": "x" * 16_385}).encode(),
    ],
)
def test_a_bad_message_is_refused_as_json(shared: RunningGateway, body: bytes) -> None:
    """The answer is 400, in JSON, with a message."""
    answer = shared.post("/messages", data=body)
    assert answer.status_code == 400
    assert answer.json()["ok"] is False and answer.json()["error"]["message"]


def test_a_large_body_is_refused(shared: RunningGateway) -> None:
    """A body over the limit ends with 413, also with chunked encoding."""
    assert shared.post("/messages", data=b"x" * 100_000).status_code == 413
    assert shared.post("/messages", data=iter([b"x" * 50_000] * 3)).status_code == 413


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "", "9" * 40, "\u0661"])
def test_bad_limit_is_refused(shared: RunningGateway, limit: str) -> None:
    """The limit is 1 to 500."""
    assert shared.get("/messages", params={"limit": limit}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/health", 405), ("GET", "/callback", 405)],
)
def test_unknown_paths_and_methods_are_json_too(shared: RunningGateway, method: str, path: str, status: int) -> None:
    """Only the page is HTML."""
    answer = (shared.get if method == "GET" else shared.post)(path)
    assert answer.status_code == status and answer.json()["ok"] is False


def test_unexpected_error_is_json_and_logged_under_its_correlation_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An internal error is an envelope without its cause; the log has both under the same id."""

    def fail(parts: Any) -> Any:
        raise RuntimeError("an inner detail")

    monkeypatch.setattr(service, "examine", fail)
    app = service.create_app(GatewayPaths(tmp_path))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/health",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"x-correlation-id", b"find-me-again")],
        "client": ("127.0.0.1", 1),
    }
    # Starlette answers first and then passes the error to the server, which logs its traceback.
    with pytest.raises(RuntimeError):
        asyncio.run(app(scope, receive, send))
    answer = json.loads(sent[1]["body"])
    assert sent[0]["status"] == 500 and answer["ok"] is False
    assert answer["correlationId"] == "find-me-again" and "inner detail" not in str(answer)
    assert "find-me-again" in caplog.text


def test_a_callback_is_accepted_once(shared: RunningGateway) -> None:
    """The same key again is a duplicate, with other content a rejection; each is counted."""
    before = shared.get("/reliability").json()["data"]["callbacks"]
    callback = {"key": "delivery-1", "state": "read"}
    first, again = shared.post("/callback", json=callback), shared.post("/callback", json=callback)
    assert (first.status_code, again.status_code) == (202, 200)
    assert not first.json()["data"]["duplicate"] and again.json()["data"]["duplicate"]
    assert shared.post("/callback", json={**callback, "state": "failed"}).status_code == 409
    assert shared.post("/callback", json={"state": "keyless"}).status_code == 400
    header = {"Idempotency-Key": "delivery-2"}
    assert shared.post("/callback", json={"state": "x"}, headers=header).status_code == 202
    assert shared.post("/callback", json={"state": "x"}, headers=header).status_code == 200
    assert shared.post("/callback", json={"key": "other"}, headers=header).status_code == 400
    after = shared.get("/reliability").json()["data"]["callbacks"]
    assert {key: after[key] - before[key] for key in after} == {
        "totalAccepted": 2,
        "totalDuplicate": 2,
        "totalRejected": 3,
    }


def test_concurrent_callbacks_are_accepted_once(shared: RunningGateway) -> None:
    """One of many simultaneous callbacks is accepted."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.post("/callback", json={"key": "race"}), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [202]


def test_reliability_without_a_secret_is_served_on_loopback(shared: RunningGateway) -> None:
    """The answer has the predecessor's shape and no text of a message."""
    shared.post("/messages", json=MESSAGE)
    answer = shared.get("/reliability")
    assert answer.status_code == 200 and MESSAGE["text"] not in answer.text
    assert set(answer.json()["data"]["queue"]) == {
        "totalQueued",
        "totalDispatching",
        "totalSent",
        "totalFailed",
        "totalDeadLetters",
    }


@pytest.mark.slow
def test_reliability_with_a_secret_must_be_signed(
    start_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """401 unsigned, 403 wrongly signed; a request without a body and one with JSON both pass when signed correctly."""
    monkeypatch.setenv("API_SECRET", "s3cret")
    gateway = start_gateway()
    assert gateway.get("/reliability").status_code == 401
    for wrong in ("sha256=00", "x", "sha256=\u00e9", *_signed("other", b"").values()):
        headers = {"X-Signature": wrong.encode("latin-1")}
        assert gateway.get("/reliability", headers=headers).status_code == 403
    assert gateway.get("/reliability", headers=_signed("s3cret", b"{}")).status_code == 403
    assert gateway.get("/reliability", headers=_signed("s3cret", b"")).status_code == 200
    signed = {**_signed("s3cret", b"{}"), "Content-Type": "application/json"}
    assert gateway.get("/reliability", data=b"{}", headers=signed).status_code == 200
    assert gateway.get("/health").status_code == 200
    body = b'{"key": "signed"}'
    wrong_callback = gateway.post("/callback", data=body, headers=_signed("other", body))
    right_callback = gateway.post("/callback", data=body, headers=_signed("s3cret", body))
    assert (wrong_callback.status_code, right_callback.status_code) == (403, 202)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_requests_of_other_origins_are_refused(shared: RunningGateway, headers: dict[str, str]) -> None:
    """Neither a rebound name nor a foreign page can read or post."""
    assert shared.get("/messages", headers=headers).status_code == 403
    assert shared.post("/messages", json=MESSAGE, headers=headers).status_code == 403


def test_the_own_page_may_call(shared: RunningGateway) -> None:
    """Requests with the origin of the page itself are accepted."""
    assert shared.get("/health", headers={"Origin": shared.url}).status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [b"garbage\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: [::\r\nConnection: close\r\n\r\n"],
)
def test_malformed_requests_are_refused(shared: RunningGateway, request_bytes: bytes) -> None:
    """The service answers 400 or 403 and stays up."""
    port = int(shared.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request_bytes)
        assert client.recv(64).split()[1] in (b"400", b"403")
    assert shared.health()["status"] == "ok"


def test_the_page_loads_nothing_from_other_hosts(shared: RunningGateway) -> None:
    """It has its marker, names no other host, and its policy allows no other host."""
    answer = shared.get("/")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert '<meta name="generator" content="release-tasks gateway">' in answer.text
    links = answer.text.replace("http://www.w3.org/2000/svg", "")  # a namespace, not a request
    assert "http://" not in links and "https://" not in links and "src=" not in links
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.slow
def test_last_release_comes_from_the_latest_manifest(start_gateway: Callable[..., Any], tmp_path: Path) -> None:
    """No release yet, then the fields of the manifest, then a note that the manifest is unreadable."""
    gateway = start_gateway(release_root=tmp_path)
    assert gateway.get("/release/last").json()["data"] == {"release": None, "detail": "none yet"}
    latest = tmp_path / "manifests" / "latest.json"
    latest.parent.mkdir()
    manifest = {"releaseId": "v1", "status": "ready", "snapshot": {"snapshotId": "s1"}}
    latest.write_text(json.dumps(manifest))
    release = gateway.get("/release/last").json()["data"]["release"]
    assert (release["releaseId"], release["status"], release["snapshotId"]) == ("v1", "ready", "s1")
    latest.write_text("{")
    data = gateway.get("/release/last").json()["data"]
    assert data["release"] is None and "not valid JSON" in data["detail"]
