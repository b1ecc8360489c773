"""The formats of the channels: Telegram updates, WhatsApp notifications, and the API call that sends a message."""

from __future__ import annotations

import os
from typing import Any

from attrs import field, frozen

from release_tasks.config.gateway import TELEGRAM_TOKEN, WHATSAPP_TOKEN
from release_tasks.gateway.settings import GatewaySettings
from release_tasks.pairing.channels import Channel, SenderRefused, normalise_sender

__all__ = ["Call", "DirectMessage", "channel_call", "read_notification", "read_update"]

_MAX_KEY = 500
# Contents of a Telegram message without text. Without a caption, the name of the content is queued as the text.
_TELEGRAM_CONTENTS = (
    "photo", "voice", "video", "audio", "document", "sticker", "location", "venue", "contact", "animation",
    "video_note", "poll", "dice",
)  # fmt: skip
# Contents of a WhatsApp message from a person; a changed number, a reaction, an edit or a deletion is ignored.
_WHATSAPP_CONTENTS = (
    "image", "audio", "video", "document", "sticker", "location", "contacts", "interactive", "button", "order",
)  # fmt: skip


@frozen(kw_only=True)
class DirectMessage:
    """A message from one person to the service; ``key`` is the channel's message id, the same at each retry."""

    channel: Channel
    sender: str
    key: str
    text: str


@frozen
class Call:
    """One POST request; ``name`` is its name in logs, because the URL or a header may contain a token."""

    name: str
    url: str = field(repr=False)
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)


def read_update(update: dict[str, Any]) -> DirectMessage | None:
    """Return the direct message of a Telegram update (``Update``, ``Message`` and ``Chat`` of the Bot API).

    Returns None for every other update: groups, channels, bots, edits, joins and service messages.
    """
    number, message = update.get("update_id"), update.get("message")
    if not _is_number(number) or not isinstance(message, dict):
        return None
    chat, sender = message.get("chat"), message.get("from")
    if not isinstance(chat, dict) or not isinstance(sender, dict):
        return None
    # In a private chat, the id of the chat is the id of the person; another sender id is not this person.
    if chat.get("type") != "private" or not _is_number(sender.get("id")) or sender["id"] != chat.get("id"):
        return None
    if sender.get("is_bot") is not False or "sender_chat" in message:
        return None
    texts = (message.get(key) for key in ("text", "caption"))
    contents = (f"[{kind}]" for kind in _TELEGRAM_CONTENTS if kind in message)
    text = next((text for text in texts if isinstance(text, str) and text), None) or next(contents, None)
    return None if text is None else _direct_message(Channel.TELEGRAM, str(sender["id"]), str(number), text)


def read_notification(notification: dict[str, Any]) -> list[DirectMessage]:
    """Return the direct messages of a notification of Meta's WhatsApp Cloud API (``messages``), in order.

    Statuses, group messages and all other objects are ignored.
    """
    if notification.get("object") != "whatsapp_business_account":
        return []
    messages: list[DirectMessage | None] = []
    for entry in _objects(notification.get("entry")):
        for change in _objects(entry.get("changes")):
            value = change.get("value")
            if change.get("field") == "messages" and isinstance(value, dict):
                messages += map(_whatsapp_message, _objects(value.get("messages")))
    return [message for message in messages if message is not None]


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _whatsapp_message(message: dict[str, Any]) -> DirectMessage | None:
    # The messages of a person with a username contain a business-scoped user id instead of a phone number.
    sender, key = message.get("from") or message.get("from_user_id"), message.get("id")
    if "group_id" in message or not isinstance(sender, str) or not isinstance(key, str):
        return None
    kind = message.get("type")
    content = message.get(kind) if isinstance(kind, str) else None
    value = content.get("body" if kind == "text" else "caption") if isinstance(content, dict) else None
    text = value if isinstance(value, str) else None
    if kind in _WHATSAPP_CONTENTS:
        text = text or f"[{kind}]"
    elif kind != "text":
        text = None
    return None if text is None else _direct_message(Channel.WHATSAPP, sender, key, text)


def _direct_message(channel: Channel, sender: str, key: str, text: str) -> DirectMessage | None:
    """Return the message with a normalised sender, or None for an invalid or shared id."""
    try:
        sender = normalise_sender(channel, sender)
    except SenderRefused:
        return None
    if not key or len(key) > _MAX_KEY:
        return None
    # An unpaired surrogate is valid JSON, but a database or a socket cannot encode it.
    key, text = (value.encode("utf-8", "replace").decode() for value in (key, text))
    return DirectMessage(channel=channel, sender=sender, key=key, text=text)
