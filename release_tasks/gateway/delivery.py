"""Where a message goes: the home's outbox file, or the URL that gateway.json names."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from release_tasks.core.clock import timestamp
from release_tasks.gateway.channels import Call, channel_call
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.settings import Settings
from release_tasks.gateway.store import Delivery

__all__ = ["DeliveryError", "deliver"]


class DeliveryError(GatewayError):
    """The message was not taken; it may be tried again."""


def deliver(delivery: Delivery, settings: Settings, outbox: Path) -> None:
    """Hand one message over; raises DeliveryError when it was not taken.

    What goes out to a sender goes through their channel where its token is in the environment. Everything else, and
    what came in, goes to the delivery URL or to the outbox.
    """
    call = channel_call(delivery.channel, delivery.to, delivery.text, settings, os.environ)
    if call is not None:
        _post(call, settings.delivery_timeout)
        return
    message = {
        "id": delivery.id,
        "channel": delivery.channel,
        "to": delivery.to,
        "text": delivery.text,
        "attempt": delivery.attempt,
        "sentAt": timestamp(),
    }
    if settings.delivery_url is None:
        _append(outbox, message)
    else:
        headers = {"Idempotency-Key": delivery.id}
        _post(Call("the delivery URL", settings.delivery_url, message, headers), settings.delivery_timeout)


def _append(outbox: Path, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    try:
        fd = os.open(outbox, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # a crash tore the last line: keep it apart from this one
            if os.write(fd, line) != len(line):
                raise DeliveryError(f"{outbox.name}: the disk is full")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise DeliveryError(f"{outbox.name}: {error.strerror}") from error


def _post(call: Call, timeout: float) -> None:
    import requests

    try:
        response = requests.post(
            call.url, json=call.body, headers=call.headers, timeout=timeout, allow_redirects=False, stream=True
        )
    except requests.RequestException as error:
        raise DeliveryError(f"{type(error).__name__} at {call.name}") from None  # its text may hold a token
    with contextlib.closing(response):
        if not 200 <= response.status_code < 300:
            raise DeliveryError(f"{call.name} answered HTTP {response.status_code}")
