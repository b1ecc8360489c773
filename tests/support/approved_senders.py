"""Approved senders of a gateway: signed webhook requests one after the other, each on a connection of its own.

    python -m tests.support.approved_senders PORT SECONDS SENDERS

The environment has the secrets. Prints the times of all requests in seconds, and those of health, as JSON.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import itertools
import json
import os
import sys
import threading
import time
from typing import Any

__all__ = ["TELEGRAM_SENDER", "WHATSAPP_SENDER"]

TELEGRAM_SENDER, WHATSAPP_SENDER = "4711001", "15550001234"
_numbers = itertools.count(int(time.time() * 1000))


def _telegram() -> tuple[str, bytes, dict[str, str]]:
    person = {"id": int(TELEGRAM_SENDER), "is_bot": False, "first_name": "A"}
    message = {"message_id": 7, "from": person, "chat": {**person, "type": "private"}, "date": 1, "text": "hello"}
    body = json.dumps({"update_id": next(_numbers), "message": message}).encode()
    return "/webhooks/telegram", body, {"X-Telegram-Bot-Api-Secret-Token": os.environ["TELEGRAM_WEBHOOK_SECRET"]}


def _whatsapp() -> tuple[str, bytes, dict[str, str]]:
    message = {"from": WHATSAPP_SENDER, "id": f"wamid.{next(_numbers)}", "type": "text", "text": {"body": "hello"}}
    change = {"field": "messages", "value": {"messages": [message]}}
    notification = {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    body = json.dumps(notification).encode()
    digest = hmac.new(os.environ["WHATSAPP_APP_SECRET"].encode(), body, hashlib.sha256).hexdigest()
    return "/webhooks/whatsapp", body, {"X-Hub-Signature-256": f"sha256={digest}"}


def _request(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[float, Any]:
    """Return the time of one request in seconds, and its status and JSON body or the name of its error."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer: Any = (response.status, json.loads(response.read()))
    except (OSError, ValueError, http.client.HTTPException) as error:
        answer = (type(error).__name__, None)
    finally:
        connection.close()
    return time.perf_counter() - started, answer


def _send(port: int, end: float, times: list[float], wrong: list[str]) -> None:
    for message in itertools.cycle((_telegram, _whatsapp)):
        if time.perf_counter() > end:
            return
        seconds, (status, answer) = _request(port, "POST", *message())
        times.append(seconds)
        if status != 200 or answer["data"]["queued"] != 1:
            wrong.append(f"{status}: {answer}")
        time.sleep(0.05)


def _ask_health(port: int, end: float, times: list[float], wrong: list[str]) -> None:
    while time.perf_counter() < end:
        seconds, (status, answer) = _request(port, "GET", "/health", None, {})
        times.append(seconds)
        if status != 200 or answer["data"]["status"] != "ok":
            wrong.append(f"health {status}: {answer}")
        time.sleep(0.5)


def main(port: int, seconds: float, senders: int) -> None:
    end = time.perf_counter() + seconds
    messages: list[float] = []
    health: list[float] = []
    wrong: list[str] = []
    threads = [threading.Thread(target=_send, args=(port, end, messages, wrong)) for _ in range(senders)]
    threads.append(threading.Thread(target=_ask_health, args=(port, end, health, wrong)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"messages": messages, "health": health, "wrong": wrong[:5], "wrongTotal": len(wrong)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
