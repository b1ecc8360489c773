"""What a Telegram update says: a direct message of one person, or nothing that concerns the service.

The fields are those of ``Update``, ``Message`` and ``Chat`` in Telegram's Bot API.
"""

from __future__ import annotations

from typing import Any

from release_tasks.gateway.direct import DirectMessage, direct_message, is_number
from release_tasks.pairing.channels import Channel

__all__ = ["read_update"]

# What a message may hold instead of text, and what is queued for it when it has no caption.
_CONTENTS = (
    "photo", "voice", "video", "audio", "document", "sticker", "location", "venue", "contact", "animation",
    "video_note", "poll", "dice",
)  # fmt: skip


def read_update(update: dict[str, Any]) -> DirectMessage | None:
    """Return the direct message of an update.

    None for everything else: groups, channels, other bots, edits, joins and whatever is not content.
    """
    number, message = update.get("update_id"), update.get("message")
    if not is_number(number) or not isinstance(message, dict):
        return None
    chat, sender = message.get("chat"), message.get("from")
    if not isinstance(chat, dict) or not isinstance(sender, dict):
        return None
    # In a private chat the chat's id is that of the person, so whoever else is named did not write it there.
    if chat.get("type") != "private" or not is_number(sender.get("id")) or sender["id"] != chat.get("id"):
        return None
    if sender.get("is_bot") is not False or "sender_chat" in message:
        return None
    text = _content(message)
    return None if text is None else direct_message(Channel.TELEGRAM, str(sender["id"]), str(number), text)


def _content(message: dict[str, Any]) -> str | None:
    for key in ("text", "caption"):
        if isinstance(message.get(key), str) and message[key]:
            return str(message[key])
    return next((f"[{kind}]" for kind in _CONTENTS if kind in message), None)
