"""The webhooks of the channels: requests are authenticated first, and messages of unapproved senders are not stored."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from release_tasks.config import gateway as secrets
from release_tasks.core.errors import StageError
from release_tasks.core.typed import typed
from release_tasks.gateway.bodies import Bodies
from release_tasks.gateway.channels import DirectMessage
from release_tasks.gateway.errors import SettingsError
from release_tasks.gateway.health import Parts
from release_tasks.gateway.http import (
    body_signature,
    json_object,
    require_credential,
    require_signature,
    success,
)
from release_tasks.gateway.settings import read_settings
from release_tasks.gateway.store import MessageStore
from release_tasks.gateway.telegram import read_update
from release_tasks.gateway.whatsapp import read_notification
from release_tasks.pairing.policy import Pairing, PendingRequest

__all__ = ["INBOUND", "LOCK_SECONDS", "REPLIED", "WEBHOOKS", "Verdict", "Webhooks", "ask", "queue"]

WEBHOOKS = "/webhooks/"
INBOUND = "inbound."  # channel prefix of inbound messages
REPLIED = "replied."  # key prefix of a reply with a pairing code, which is sent once for each code

Verdict = Literal["queued", "duplicate", "unapproved", "code_sent", "ignored"]

MAX_BODY_BYTES = 1024 * 1024
# Unapproved senders have threads and times of their own, so that they never delay an approved message. A message that
# cannot be processed in this time is answered with 503, and the channel sends it again.
LOCK_SECONDS = 0.5  # for the lock of the pairing store, which an operator's command holds for milliseconds
_MAX_ASKING = 2
_ASKING_SECONDS = 2.0
_LOG_PAUSE_SECONDS = 10.0
_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,256}")
_LOG = logging.getLogger("gateway.webhooks")


class Webhooks:
    """The webhook endpoints of a gateway; ``write`` runs a function in a thread."""

    def __init__(self, parts: Parts, write: Callable[..., Awaitable[Any]], bodies: Bodies) -> None:
        self._parts = parts
        self._bodies = bodies
        self._secrets = parts.secrets
        self._write = write
        self._asking: anyio.CapacityLimiter | None = None
        self._next_log = 0.0

    def routes(self) -> list[Route]:
        """Return the routes of all channels."""
        return [
            Route(f"{WEBHOOKS}telegram", self.telegram, methods=["POST"]),
            Route(f"{WEBHOOKS}whatsapp", self.whatsapp, methods=["GET", "POST"]),
        ]

    async def telegram(self, request: Request) -> Response:
        """Receive one update."""
        header = "X-Telegram-Bot-Api-Secret-Token"
        require_credential(header, request.headers.get(header), self._secrets.telegram, secrets.TELEGRAM_SECRET)
        message = read_update(json_object(await self._bodies.read(request, MAX_BODY_BYTES)))
        return await self._receive(request, [message] if message is not None else [])

    async def whatsapp(self, request: Request) -> Response:
        """Receive one notification, which may contain several messages, or Meta's verification of the webhook URL."""
        return await (self._notification if request.method == "POST" else self._verification)(request)

    async def _verification(self, request: Request) -> Response:
        query = request.query_params
        received, expected = query.get("hub.verify_token"), self._secrets.whatsapp_verify
        require_credential("hub.verify_token", received, expected, secrets.WHATSAPP_VERIFY_TOKEN)
        challenge = query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
            raise HTTPException(400, "expected hub.mode=subscribe and a hub.challenge")
        return PlainTextResponse(challenge, headers={"X-Content-Type-Options": "nosniff"})

    async def _notification(self, request: Request) -> Response:
        header = "X-Hub-Signature-256"
        received = request.headers.get(header)
        secret = require_signature(header, received, self._secrets.whatsapp, secrets.WHATSAPP_SECRET)
        body = await self._bodies.read(request, MAX_BODY_BYTES)
        require_credential(header, received, body_signature(body, secret), secrets.WHATSAPP_SECRET)
        notification = json_object(body)
        return await self._receive(request, read_notification(notification, await self._number_id()))

    async def _number_id(self) -> str | None:
        """Return the configured business phone number: with one, messages to another number are ignored."""
        try:
            return (await run_in_threadpool(read_settings, self._parts.paths.settings)).whatsapp_phone_number_id
        except SettingsError as error:
            if error.is_missing:
                return None
            _LOG.error("a WhatsApp notification was not processed: %s", error.message)
            raise HTTPException(503, "the settings of the gateway cannot be read; see the log") from error

    async def _receive(self, request: Request, messages: list[DirectMessage]) -> Response:
        """Process each message, those of approved senders first.

        After an error the channel sends all messages again; none is queued twice. The response contains only the number
        of queued messages, because the client is the channel, not an operator.
        """
        verdicts: Counter[str] = Counter()
        failure: Exception | None = None
        unapproved: list[DirectMessage] = []
        for message in messages:
            try:
                verdict = await self._write(queue, message, self._parts.pairing, self._parts.store)
                verdicts[verdict] += 1
                unapproved += [message] if verdict == "unapproved" else []
            except (StageError, OSError) as error:
                _LOG.error("%s: a message was not processed: %s", message.channel.value, error)
                failure = failure or error
        try:
            for message in unapproved:
                verdicts[await self._ask(message)] += 1
        except (StageError, OSError) as error:
            failure = failure or error
            if time.monotonic() >= self._next_log:
                self._next_log = time.monotonic() + _LOG_PAUSE_SECONDS
                _LOG.error("%s: a message of an unapproved sender was not processed: %s", message.channel.value, error)
        if verdicts["queued"] or verdicts["code_sent"]:
            self._parts.worker.wake()
        if failure is not None:
            raise HTTPException(503, "the approvals or the store are not available; see the log") from failure
        return success(request, {"queued": verdicts["queued"]})

    async def _ask(self, message: DirectMessage) -> Verdict:
        """Run ``ask`` in one of the few threads for unapproved senders; raises TimeoutError while all are in use."""
        if self._asking is None:  # the limiter belongs to the event loop, which runs now
            self._asking = anyio.CapacityLimiter(_MAX_ASKING)
        with anyio.fail_after(_ASKING_SECONDS):
            return await anyio.to_thread.run_sync(
                ask, message, self._parts.pairing, self._parts.store, limiter=self._asking
            )


def queue(message: DirectMessage, pairing: Pairing, store: MessageStore) -> Verdict:
    """Queue the message of an approved sender once, without waiting for the lock of the pairing store.

    Raises StoreError, StoreUnusable or OSError; then nothing was queued, and the channel may send the message again.
    """
    sender = pairing.admitted(message.channel, message.senders)
    if sender is None:
        return "unapproved"
    channel = message.channel.value
    key = f"{INBOUND}{channel}/{message.key}"
    is_new = store.add_message_once(key, f"{INBOUND}{channel}", sender, message.text)
    return "queued" if is_new else "duplicate"


def ask(message: DirectMessage, pairing: Pairing, store: MessageStore) -> Verdict:
    """Send an unapproved sender one pairing code and store no message.

    Raises StoreError, StoreUnusable, LockHeld or OSError; then the channel may send the message again.
    """
    channel = message.channel.value
    outcome = pairing.request(message.channel, *message.senders)
    if outcome.status == "approved":  # in the meantime
        return queue(message, pairing, store)
    if outcome.request is None:
        return "ignored"
    # Also for a repeated request: after a failure, the first reply may be missing in the queue.
    key = f"{REPLIED}{channel}/{hashlib.sha256(outcome.request.code.encode()).hexdigest()[:32]}"
    is_new = store.add_message_once(key, channel, message.senders[0], _answer(message, outcome.request))
    return "code_sent" if is_new else "ignored"


def _answer(message: DirectMessage, request: PendingRequest) -> str:
    minutes = max(round(request.time_left / 60), 1)
    return (
        f"You are not approved for this service, and your message was not read. Your pairing code is {request.code}. "
        f"It is valid for {minutes} min. The operator of the service can approve you with this command:\n\n"
        f"{typed('pairing.approve', message.channel.value, request.code)}\n\nThen write again."
    )
