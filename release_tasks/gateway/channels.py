"""A direct message of a channel, and the API call that sends a message to a channel."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from release_tasks.config.gateway import TELEGRAM_TOKEN, WHATSAPP_TOKEN
from release_tasks.gateway.settings import GatewaySettings
from release_tasks.pairing.channels import Channel, valid_ids

__all__ = ["Call", "DirectMessage", "channel_call", "direct_message", "is_number", "note_event"]

_MAX_KEY = 500
_MAX_NOTED = 200
_LOG = logging.getLogger("gateway.channels")
_noted: set[tuple[Channel, str]] = set()


@frozen(kw_only=True)
class DirectMessage:
    """A message from one person to the service; ``key`` is the channel's message id, the same at each retry.

    ``senders`` are the ids of the person that the message contains, at least one.
    """

    channel: Channel
    senders: tuple[str, ...]
    key: str
    text: str


@frozen
class Call:
    """One POST request; ``name`` is its name in logs, because the URL or a header may contain a token."""

    name: str
    url: str = field(repr=False)
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)


def direct_message(channel: Channel, senders: Iterable[str], key: str, text: str) -> DirectMessage | None:
    """Return the message with normalised senders, or None without a valid id, or with an id of several people."""
    ids = valid_ids(channel, senders)
    if not ids or not key or len(key) > _MAX_KEY:
        return None
    # An unpaired surrogate is valid JSON, but a database or a socket cannot encode it.
    key, text = (value.encode("utf-8", "replace").decode() for value in (key, text))
    return DirectMessage(channel=channel, senders=tuple(ids), key=key, text=text)


def note_event(channel: Channel, kind: str) -> None:
    """Log, once for each kind, that notifications of this kind are no messages and are ignored."""
    noted = channel, kind[:64]
    if noted not in _noted and len(_noted) < _MAX_NOTED:
        _noted.add(noted)
        _LOG.info("%s: not a message, so not queued: %r (logged once)", channel.value, noted[1])


def is_number(value: Any) -> bool:
    """Return whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def channel_call(channel: str, to: str, text: str, settings: GatewaySettings) -> Call | None:
    """Return the API call that sends ``text``, or None for an unknown channel or without a token."""
    if channel == Channel.TELEGRAM.value and os.environ.get(TELEGRAM_TOKEN):
        url = f"{settings.telegram_api}/bot{os.environ[TELEGRAM_TOKEN]}/sendMessage"
        return Call("the Telegram Bot API", url, {"chat_id": to, "text": text}, {})
    number = settings.whatsapp_phone_number_id
    if channel == Channel.WHATSAPP.value and os.environ.get(WHATSAPP_TOKEN) and number:
        # A sender without a visible phone number has a business-scoped user id.
        recipient = {"to": to} if to.isdigit() else {"recipient": to}
        body = {"messaging_product": "whatsapp", **recipient, "type": "text", "text": {"body": text}}
        headers = {"Authorization": f"Bearer {os.environ[WHATSAPP_TOKEN]}"}
        return Call("the WhatsApp Cloud API", f"{settings.whatsapp_api}/{number}/messages", body, headers)
    return None
