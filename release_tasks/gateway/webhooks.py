"""The webhooks of the channels: nothing is read before it has proved whom it comes from, nothing kept of strangers."""

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
from release_tasks.gateway.channels import DirectMessage, read_notification, read_update
from release_tasks.gateway.health import Parts
from release_tasks.gateway.http import json_object, read_body, require_proof, signature_of, success
from release_tasks.gateway.store import MessageStore
from release_tasks.pairing.policy import Pairing, PendingRequest

__all__ = ["INBOUND", "REPLIED", "WEBHOOKS", "Verdict", "Webhooks", "receive"]

WEBHOOKS = "/webhooks/"
INBOUND = "inbound."  # begins the channel of what came in, as against what goes out to a sender
REPLIED = "replied."  # begins the key of a reply to a stranger, which is sent once for each code

Verdict = Literal["queued", "duplicate", "asked", "silent"]

MAX_BODY_BYTES = 1024 * 1024
_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,256}")
_LOG = logging.getLogger("gateway.webhooks")


class Webhooks:
    """The endpoints of a gateway that consists of ``parts``; ``write`` runs a function in a thread."""

    def __init__(self, parts: Parts, write: Callable[..., Awaitable[Any]]) -> None:
        self._parts = parts
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
        """Take one update."""
        header = "X-Telegram-Bot-Api-Secret-Token"
        require_proof(header, request.headers.get(header), self._secrets.telegram, secrets.TELEGRAM_SECRET)
        message = read_update(json_object(await read_body(request, MAX_BODY_BYTES)))
        return await self._receive(request, [message] if message is not None else [])

    async def verify_whatsapp(self, request: Request) -> Response:
        """Answer the handshake by which Meta makes sure that the address is ours."""
        query = request.query_params
        offered, expected = query.get("hub.verify_token"), self._secrets.whatsapp_verify
        require_proof("hub.verify_token", offered, expected, secrets.WHATSAPP_VERIFY_TOKEN)
        challenge = query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
            raise HTTPException(400, "expected hub.mode=subscribe and a hub.challenge")
        return PlainTextResponse(challenge, headers={"X-Content-Type-Options": "nosniff"})

    async def whatsapp(self, request: Request) -> Response:
        """Take one notification, which may hold several messages."""
        header = "X-Hub-Signature-256"
        body = await read_body(request, MAX_BODY_BYTES)
        secret = self._secrets.whatsapp
        expected = None if secret is None else signature_of(body, secret)
        require_proof(header, request.headers.get(header), expected, secrets.WHATSAPP_SECRET)
        return await self._receive(request, read_notification(json_object(body)))

    async def _receive(self, request: Request, messages: list[DirectMessage]) -> Response:
        """Pass each through the gate. A refusal makes the channel send all again; what was queued is not queued twice.

        The answer says only how many were queued or left out: who asks is a channel, not an operator.
        """
        verdicts: Counter[str] = Counter()
        for message in messages:
            try:
                verdicts[await self._write(receive, message, self._parts.pairing, self._parts.store)] += 1
            except (StageError, OSError) as error:
                _LOG.error("%s: a message was not let in: %s", message.channel.value, error)
                raise HTTPException(503, "it cannot be told now who is admitted; the log says why") from error
        if verdicts["queued"] or verdicts["asked"]:
            self._parts.worker.wake()
        return success(request, {"queued": verdicts["queued"]})


def receive(message: DirectMessage, pairing: Pairing, store: MessageStore) -> Verdict:
    """Queue the message of an approved sender, once; of a stranger's keep nothing, and answer the first alone.

    Raises StoreError, StoreUnusable, LockHeld or OSError when it cannot be decided; nothing got in then, and the
    channel may send the message again.
    """
    channel = message.channel.value
    if not pairing.is_approved(message.channel, message.sender):
        outcome = pairing.request(message.channel, message.sender)
        if outcome.status != "approved":  # which they may be since a moment ago
            if outcome.request is None:
                return "silent"
            # Also when they ask again: the first answer may not have been queued when something failed.
            key = f"{REPLIED}{channel}/{hashlib.sha256(outcome.request.code.encode()).hexdigest()[:32]}"
            is_new = store.add_message_once(key, channel, message.sender, _answer(message, outcome.request))
            return "asked" if is_new else "silent"
    key = f"{INBOUND}{channel}/{message.key}"
    is_new = store.add_message_once(key, f"{INBOUND}{channel}", message.sender, message.text)
    return "queued" if is_new else "duplicate"


def _answer(message: DirectMessage, request: PendingRequest) -> str:
    minutes = max(round(request.time_left / 60), 1)
    return (
        f"This service does not know you yet, and has not read your message. Your pairing code is {request.code}. "
        f"It is valid for {minutes} min. Whoever runs the service can admit you with it:\n\n"
        f"inv pairing.approve {message.channel.value} {request.code}\n\nThen write again."
    )
