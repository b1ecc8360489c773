"""What a WhatsApp notification says: direct messages of single persons, and nothing else that it may report.

The fields are those of the ``messages`` webhook of Meta's WhatsApp Cloud API.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from release_tasks.gateway.direct import DirectMessage, direct_message
from release_tasks.pairing.channels import Channel

__all__ = ["read_notification"]

# Content that a person sends. A changed number, a reaction, an edit, a deletion are none of these.
_CONTENTS = ("image", "audio", "video", "document", "sticker", "location", "contacts", "interactive", "button", "order")


def read_notification(notification: dict[str, Any]) -> list[DirectMessage]:
    """Return the direct messages of a notification, in their order; statuses, groups and all else are left out."""
    if notification.get("object") != "whatsapp_business_account":
        return []
    found = [_read(message) for value in _values(notification) for message in _objects(value.get("messages"))]
    return [message for message in found if message is not None]


def _values(notification: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in _objects(notification.get("entry")):
        for change in _objects(entry.get("changes")):
            value = change.get("value")
            if change.get("field") == "messages" and isinstance(value, dict):
                yield value


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read(message: dict[str, Any]) -> DirectMessage | None:
    # Who has taken a username shows no phone number, only an id that this business alone knows them by.
    sender, key = message.get("from") or message.get("from_user_id"), message.get("id")
    if "group_id" in message or not isinstance(sender, str) or not isinstance(key, str):
        return None
    text = _content(message)
    return None if text is None else direct_message(Channel.WHATSAPP, sender, key, text)


def _content(message: dict[str, Any]) -> str | None:
    kind = message.get("type")
    if kind == "text":
        body = message.get("text")
        return body["body"] if isinstance(body, dict) and isinstance(body.get("body"), str) else None
    if kind not in _CONTENTS:
        return None
    content = message.get(kind)
    caption = content.get("caption") if isinstance(content, dict) else None
    return caption if isinstance(caption, str) and caption else f"[{kind}]"
