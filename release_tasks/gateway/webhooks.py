"""The webhooks of the channels: requests are authenticated first, and messages of unapproved senders are not stored."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from release_tasks.config import gateway as secrets
from release_tasks.core.errors import StageError
from release_tasks.core.typed import typed
from release_tasks.gateway.bodies import Bodies
from release_tasks.gateway.channels import DirectMessage, read_notification, read_update
from release_tasks.gateway.health import Parts
from release_tasks.gateway.http import (
    body_signature,
    json_object,
    require_credential,
    require_signature,
    success,
)
from release_tasks.gateway.store import MessageStore
from release_tasks.pairing.policy import Pairing, PendingRequest

__all__ = ["INBOUND", "REPLIED", "WEBHOOKS", "Verdict", "Webhooks", "receive"]

WEBHOOKS = "/webhooks/"
INBOUND = "inbound."  # channel prefix of inbound messages
REPLIED = "replied."  # key prefix of a reply with a pairing code, which is sent once for each code

Verdict = Literal["queued", "duplicate", "code_sent", "ignored"]

MAX_BODY_BYTES = 1024 * 1024
_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,256}")
_LOG = logging.getLogger("gateway.webhooks")


class Webhooks:
    """The webhook endpoints of a gateway; ``write`` runs a function in a thread."""

    def __init__(self, parts: Parts, write: Callable[..., Awaitable[Any]], bodies: Bodies) -> None:
        self._parts = parts
        self._bodies = bodies
        self._secrets = parts.secrets
        self._write = write

    def routes(self) -> list[Route]:
        """Return the routes of all channels."""
        return [
            Route(f"{WEBHOOKS}telegram", self.telegram, methods=["POST"]),
            Route(f"{WEBHOOKS}whatsapp", self.verify_whatsapp, methods=["GET"]),
            Route(f"{WEBHOOKS}whatsapp", self.whatsapp, methods=["POST"]),
        ]

    async def telegram(self, request: Request) -> Response:
        """Receive one update."""
        header = "X-Telegram-Bot-Api-Secret-Token"
        require_credential(header, request.headers.get(header), self._secrets.telegram, secrets.TELEGRAM_SECRET)
        message = read_update(json_object(await self._bodies.read(request, MAX_BODY_BYTES)))
        return await self._receive(request, [message] if message is not None else [])

    async def verify_whatsapp(self, request: Request) -> Response:
        """Respond to Meta's verification request for the webhook URL."""
        query = request.query_params
        received, expected = query.get("hub.verify_token"), self._secrets.whatsapp_verify
        require_credential("hub.verify_token", received, expected, secrets.WHATSAPP_VERIFY_TOKEN)
        challenge = query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
            raise HTTPException(400, "expected hub.mode=subscribe and a hub.challenge")
        return PlainTextResponse(challenge, headers={"X-Content-Type-Options": "nosniff"})

    async def whatsapp(self, request: Request) -> Response:
        """Receive one notification, which may contain several messages."""
        header = "X-Hub-Signature-256"
        received = request.headers.get(header)
        secret = require_signature(header, received, self._secrets.whatsapp, secrets.WHATSAPP_SECRET)
        body = await self._bodies.read(request, MAX_BODY_BYTES)
        require_credential(header, received, body_signature(body, secret), secrets.WHATSAPP_SECRET)
        return await self._receive(request, read_notification(json_object(body)))

    async def _receive(self, request: Request, messages: list[DirectMessage]) -> Response:
        """Process each message. After an error the channel sends all messages again; none is queued twice.

        The response contains only the number of queued messages, because the client is the channel, not an operator.
        """
        verdicts: Counter[str] = Counter()
        for message in messages:
            try:
                verdicts[await self._write(receive, message, self._parts.pairing, self._parts.store)] += 1
            except (StageError, OSError) as error:
                _LOG.error("%s: a message was not processed: %s", message.channel.value, error)
                raise HTTPException(503, "the approvals or the store are not available; see the log") from error
        if verdicts["queued"] or verdicts["code_sent"]:
            self._parts.worker.wake()
        return success(request, {"queued": verdicts["queued"]})


def receive(message: DirectMessage, pairing: Pairing, store: MessageStore) -> Verdict:
    """Queue the message of an approved sender once. Send an unapproved sender one pairing code and store no message.

    Raises StoreError, StoreUnusable, LockHeld or OSError; then nothing was queued, and the channel may send the message
    again.
    """
    channel = message.channel.value
    if not pairing.is_approved(message.channel, message.sender):
        outcome = pairing.request(message.channel, message.sender)
        if outcome.status != "approved":  # the sender may have been approved in the meantime
            if outcome.request is None:
                return "ignored"
            # Also for a repeated request: after a failure, the first reply may be missing in the queue.
            key = f"{REPLIED}{channel}/{hashlib.sha256(outcome.request.code.encode()).hexdigest()[:32]}"
            is_new = store.add_message_once(key, channel, message.sender, _answer(message, outcome.request))
            return "code_sent" if is_new else "ignored"
    key = f"{INBOUND}{channel}/{message.key}"
    is_new = store.add_message_once(key, f"{INBOUND}{channel}", message.sender, message.text)
    return "queued" if is_new else "duplicate"


def _answer(message: DirectMessage, request: PendingRequest) -> str:
    minutes = max(round(request.time_left / 60), 1)
    return (
        f"You are not approved for this service, and your message was not read. Your pairing code is {request.code}. "
        f"It is valid for {minutes} min. The operator of the service can approve you with this command:\n\n"
        f"{typed('pairing.approve', message.channel.value, request.code)}\n\nThen write again."
    )
