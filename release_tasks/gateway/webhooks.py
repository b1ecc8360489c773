"""The webhooks of the channels: nothing is looked at before it has proved whom it comes from."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from release_tasks.config import gateway as secrets
from release_tasks.core.errors import StageError
from release_tasks.gateway.access import json_object, read_body, require_proof, signature_of
from release_tasks.gateway.admission import Admission
from release_tasks.gateway.direct import DirectMessage
from release_tasks.gateway.secrets import Secrets
from release_tasks.gateway.telegram import read_update
from release_tasks.gateway.whatsapp import read_notification

__all__ = ["WEBHOOKS", "Webhooks"]

WEBHOOKS = "/webhooks/"
MAX_BODY_BYTES = 1024 * 1024
_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,256}")
_LOG = logging.getLogger("gateway.webhooks")

Answer = Callable[[Request, dict[str, Any]], Response]
Write = Callable[..., Awaitable[Any]]


class Webhooks:
    """The endpoints; ``write`` runs a function in a thread, ``answer`` makes the gateway's JSON of a result."""

    def __init__(
        self, admission: Admission, given: Secrets, *, write: Write, answer: Answer, wake: Callable[[], None]
    ) -> None:
        self._admission = admission
        self._secrets = given
        self._write = write
        self._answer = answer
        self._wake = wake

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
                verdicts[await self._write(self._admission.receive, message)] += 1
            except (StageError, OSError) as error:
                _LOG.error("%s: a message was not let in: %s", message.channel.value, error)
                raise HTTPException(503, "it cannot be told now who is admitted; the log says why") from error
        if verdicts["queued"] or verdicts["asked"]:
            self._wake()
        return self._answer(request, {"queued": verdicts["queued"]})
