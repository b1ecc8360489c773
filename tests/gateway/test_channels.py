"""Messages go out through the channel of their recipient, and each token goes to its own channel only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from release_tasks.gateway.paths import GatewayPaths
from tests.support.gateway import RunningGateway
from tests.support.processes import await_true

TOKENS = {"TELEGRAM_BOT_TOKEN": "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw", "WHATSAPP_ACCESS_TOKEN": "EAAJB-token"}


@pytest.fixture
def apis(httpserver: HTTPServer) -> list[tuple[str, dict[str, str], Any]]:
    """Return the requests to both APIs: path, headers, body. The recipient 403 is refused."""
    asked: list[tuple[str, dict[str, str], Any]] = []

    def answer(request: Request) -> Response:
        asked.append((request.path, dict(request.headers), request.get_json()))
        return Response('{"ok": true}', status=403 if "403" in request.get_data(as_text=True) else 200)

    bot = f"/telegram/bot{TOKENS['TELEGRAM_BOT_TOKEN']}/sendMessage"
    httpserver.expect_request(bot).respond_with_handler(answer)
    httpserver.expect_request("/meta/106540352242922/messages").respond_with_handler(answer)
    return asked


def point_at(gateway: RunningGateway, httpserver: HTTPServer) -> None:
    """Let the gateway send to the test server instead of to Telegram and Meta."""
    settings = json.loads(gateway.home.settings.read_text())
    settings["delivery"] = {
        "telegram": {"api": httpserver.url_for("/telegram")},
        "whatsapp": {"api": httpserver.url_for("/meta"), "phoneNumberId": "106540352242922"},
    }
    settings["dispatcher"] = {"pollSeconds": 0.05, "maxAttempts": 2, "backoffSeconds": 0.02}
    gateway.home.settings.write_text(json.dumps(settings))


def states(gateway: RunningGateway) -> list[str]:
    return [message["state"] for message in gateway.get("/messages").json()["data"]["messages"]]


def send(gateway: RunningGateway, channel: str, to: str) -> None:
    assert gateway.post("/messages", json={"channel": channel, "to": to, "text": "hello"}).status_code == 202


@pytest.mark.slow
def test_each_channel_gets_its_own_request(
    start_gateway: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    httpserver: HTTPServer,
    apis: list[Any],
) -> None:
    """As the Bot API and the Cloud API define it; a refused message is retried and becomes a dead letter."""
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    gateway = start_gateway()
    point_at(gateway, httpserver)
    for channel, to in (("telegram", "4711"), ("whatsapp", "15551234567"), ("whatsapp", "US.15551234567")):
        send(gateway, channel, to)
    send(gateway, "telegram", "403")
    send(gateway, "elsewhere", "someone")
    await_true(lambda: states(gateway) == ["sent", "sent", "sent", "dead", "sent"])
    text = {"messaging_product": "whatsapp", "type": "text", "text": {"body": "hello"}}
    assert [body for _, _, body in apis] == [
        {"chat_id": "4711", "text": "hello"},
        {**text, "to": "15551234567"},
        {**text, "recipient": "US.15551234567"},
        {"chat_id": "403", "text": "hello"},
        {"chat_id": "403", "text": "hello"},
    ]
    assert apis[1][1]["Authorization"] == f"Bearer {TOKENS['WHATSAPP_ACCESS_TOKEN']}"
    assert "Authorization" not in apis[0][1]
    outbox = [json.loads(line)["to"] for line in gateway.home.outbox.read_text().splitlines()]
    assert outbox == ["someone"]
    log = gateway.home.log_file.read_text()
    assert "the Telegram Bot API responded with HTTP 403" in log
    for path in gateway.home.root.rglob("*"):
        if path.is_file():
            assert not any(token.encode() in path.read_bytes() for token in TOKENS.values()), path


@pytest.mark.slow
def test_an_unreachable_channel_is_reported_without_its_token(
    start_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the HTTP library contains the URL, and the URL contains the token."""
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    gateway = start_gateway()
    settings = json.loads(gateway.home.settings.read_text())
    settings["delivery"] = {"telegram": {"api": "http://127.0.0.1:9"}}
    settings["dispatcher"] = {"pollSeconds": 0.05, "maxAttempts": 1, "backoffSeconds": 0.02}
    gateway.home.settings.write_text(json.dumps(settings))
    send(gateway, "telegram", "4711")
    await_true(lambda: states(gateway) == ["dead"])
    log = gateway.home.log_file.read_text()
    assert "ConnectionError at the Telegram Bot API" in log
    assert TOKENS["TELEGRAM_BOT_TOKEN"] not in log


@pytest.mark.slow
def test_without_a_token_all_messages_go_to_the_outbox(
    shared: RunningGateway, httpserver: HTTPServer, apis: list[Any]
) -> None:
    """A gateway without a token never connects to a channel."""
    point_at(shared, httpserver)
    send(shared, "telegram", "4711")
    send(shared, "whatsapp", "15551234567")
    await_true(lambda: states(shared) == ["sent", "sent"])
    assert apis == []
    assert [json.loads(line)["channel"] for line in shared.home.outbox.read_text().splitlines()] == [
        "telegram",
        "whatsapp",
    ]


PRINT_NAMES = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text("\\n".join(sorted(os.environ)))
"""


@pytest.mark.slow
def test_no_mcp_server_sees_a_secret(
    start_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its environment is that of the gateway without the variables of the channels."""
    names = ("TELEGRAM_WEBHOOK_SECRET", "WHATSAPP_APP_SECRET", "WHATSAPP_VERIFY_TOKEN", "API_SECRET", *TOKENS)
    for name in names:
        monkeypatch.setenv(name, "a value of this test")
    monkeypatch.setenv("HARMLESS", "x")
    home = tmp_path / "gateway"
    GatewayPaths(home).initialise()
    seen = tmp_path / "seen"
    server = {"command": sys.executable, "args": ["-c", PRINT_NAMES, str(seen)]}
    GatewayPaths(home).mcp_servers.write_text(json.dumps({"mcpServers": {"spy": server}}))
    start_gateway(home)
    found = await_true(lambda: seen.exists() and seen.read_text()).split("\n")
    assert "HARMLESS" in found
    assert not set(names) & set(found)
