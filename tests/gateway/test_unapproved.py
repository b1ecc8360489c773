"""Unapproved senders never delay the messages of approved ones, whatever holds the lock of the pairing store."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from tests.support.gateway import RunningGateway

SECRET, APP_SECRET = "a-telegram-secret_123", "an app secret"
APPROVED = 4711001
PHONE = "15557000001"
HOLD_LOCK = """
import sys
from pathlib import Path
from release_tasks.core.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def pairing(tmp_path_factory: pytest.TempPathFactory) -> Pairing:
    return Pairing(PairingConfig(credentials=tmp_path_factory.mktemp("pairing") / "credentials", max_pending=100_000))


@pytest.fixture(scope="module")
def credentials(pairing: Pairing) -> Path:
    return pairing.approved_path(Channel.TELEGRAM).parent


@pytest.fixture(scope="module")
def running(start_shared: Callable[..., Any], pairing: Pairing, credentials: Path) -> RunningGateway:
    """Return a gateway with one approved sender, and with a place for every request."""
    for channel, sender in ((Channel.TELEGRAM, str(APPROVED)), (Channel.WHATSAPP, PHONE)):
        request = pairing.request(channel, sender).request
        assert request is not None
        pairing.approve(channel, request.code)
    config = PairingConfig(credentials=credentials, max_pending=100_000)
    secrets = {"TELEGRAM_WEBHOOK_SECRET": SECRET, "WHATSAPP_APP_SECRET": APP_SECRET}
    gateway = start_shared(secrets, pairing=config)
    assert isinstance(gateway, RunningGateway)
    return gateway


@pytest.fixture(params=["telegram"])
def held_lock(running: RunningGateway, credentials: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let another process hold the lock of a store."""
    path = credentials / f"{request.param}-pairing.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    yield
    holder.communicate("")


def send(running: RunningGateway, sender: int, number: int) -> tuple[int, float]:
    """Send one update; return the status and the seconds until the answer."""
    message = {
        "message_id": 1,
        "from": {"id": sender, "is_bot": False},
        "chat": {"id": sender, "type": "private"},
        "text": "hello",
    }
    began = time.monotonic()
    answer = requests.post(
        f"{running.url}/webhooks/telegram",
        data=json.dumps({"update_id": number, "message": message}),
        headers={"X-Telegram-Bot-Api-Secret-Token": SECRET},
        timeout=60,
    )
    return answer.status_code, time.monotonic() - began


@pytest.mark.parametrize("strangers", [24, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("held_lock")
def test_a_held_lock_delays_no_approved_message(running: RunningGateway, strangers: int) -> None:
    """Many unapproved senders write while another process holds the lock; each of them gets an answer, too."""
    first = 1_000_000 * strangers
    with ThreadPoolExecutor(strangers) as crowd:
        waiting = [crowd.submit(send, running, first + n, first + n) for n in range(strangers)]
        times: list[float] = []
        while not all(each.done() for each in waiting) or len(times) < 20:
            status, seconds = send(running, APPROVED, first * 10 + len(times))
            assert status == 200
            times.append(seconds)
        answers = [each.result() for each in waiting]
    # One message would wait for the lock 10 s without limits of their own.
    assert sorted(times)[int(len(times) * 0.99) - 1] < 5.0 and sorted(times)[len(times) // 2] < 1.0, times
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < 30.0


@pytest.mark.slow
@pytest.mark.parametrize("held_lock", ["whatsapp"], indirect=True)
@pytest.mark.usefixtures("held_lock")
def test_an_approved_message_of_a_mixed_notification_is_queued(running: RunningGateway) -> None:
    """The unapproved senders in it come later, and the channel sends the notification again."""
    messages = [
        {"from": sender, "id": f"wamid.mixed.{sender}", "type": "text", "text": {"body": f"from {sender}"}}
        for sender in ("15557000002", "15557000003", PHONE)
    ]
    change = {"field": "messages", "value": {"messages": messages}}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [{"changes": [change]}]}).encode()
    digest = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    for _ in range(2):
        answer = running.post("/webhooks/whatsapp", data=body, headers={"X-Hub-Signature-256": f"sha256={digest}"})
        assert answer.status_code == 503
    queued = [message["text"] for message in running.get("/messages?limit=500").json()["data"]["messages"]]
    assert [text for text in queued if text.startswith("from ")] == [f"from {PHONE}"]


@pytest.mark.slow
def test_strangers_without_a_held_lock_get_their_codes(running: RunningGateway, pairing: Pairing) -> None:
    """Two dozen at the same moment: none is turned away, at the latest when the channel sends the message again."""
    left = list(range(7_000_000, 7_000_024))
    for _ in range(20):
        with ThreadPoolExecutor(24) as crowd:
            answers = list(crowd.map(lambda sender: send(running, sender, sender), left))
        left = [sender for sender, (status, _) in zip(left, answers, strict=True) if status != 200]
        if not left:
            break
    assert left == []
    pending = {request.sender for request in pairing.pending(Channel.TELEGRAM)}
    assert {str(sender) for sender in range(7_000_000, 7_000_024)} <= pending
