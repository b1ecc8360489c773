"""The notifications of Meta's WhatsApp Cloud API: which are messages of a person, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from release_tasks.gateway.channels import DirectMessage, direct_message, note_event
from release_tasks.gateway.words import Words, labelled
from release_tasks.pairing.channels import Channel

__all__ = ["read_notification"]

# The contents of a message without text and caption.
_CONTENTS: dict[str, Words] = {
    "text": (),
    "image": (),
    "audio": (),
    "voice": (),
    "video": (),
    "sticker": (),
    "document": ("filename",),
    "location": ("name", "address", "latitude", "longitude", "url"),
    "contacts": (
        ("name", ("formatted_name",)),
        ("phones", ("phone",)),
        ("emails", ("email",)),
        ("org", ("company", "title")),
        ("urls", ("url",)),
    ),
    "button": ("text", "payload"),
    "order": (
        "text",
        "catalog_id",
        ("product_items", ("product_retailer_id", "quantity", "item_price", "currency")),
    ),
    "unsupported": ("type", "title", "details", ("error_data", ("details",))),
    "unknown": ("type", "title", "details", ("error_data", ("details",))),
    # The kinds of ``interactive``
    "button_reply": ("title", "id"),
    "list_reply": ("title", "description", "id"),
    "nfm_reply": ("name", "body", "response_json"),
    "call_permission_reply": ("response", "response_source", "expiration_timestamp", "is_permanent"),
}
# A changed number or id, a reaction, an edit, a deletion, and a chat that was opened: not a message of its own.
_EVENTS = ("system", "reaction", "edit", "revoke", "request_welcome")


def read_notification(notification: dict[str, Any], number_id: str | None = None) -> list[DirectMessage]:
    """Return the direct messages of a notification (``messages``), in order.

    Statuses, group messages and all other objects are ignored, and with ``number_id`` also the messages to other
    business phone numbers of the same account.
    """
    if notification.get("object") != "whatsapp_business_account":
        return []
    messages: list[DirectMessage | None] = []
    for entry in _objects(notification.get("entry")):
        for change in _objects(entry.get("changes")):
            value = change.get("value")
            if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
                continue
            if change.get("field") != "messages":
                note_event(Channel.WHATSAPP, str(change.get("field")))
            elif _is_for(number_id, value.get("metadata")):
                messages += _messages(value)
            else:
                note_event(Channel.WHATSAPP, "messages to another phone_number_id")
    return [message for message in messages if message is not None]


def _is_for(number_id: str | None, metadata: Any) -> bool:
    return number_id is None or (isinstance(metadata, dict) and str(metadata.get("phone_number_id")) == number_id)


def _messages(value: dict[str, Any]) -> Iterator[DirectMessage | None]:
    messages, contacts = _objects(value.get("messages")), _objects(value.get("contacts"))
    for message in messages:
        yield _message(message, contacts, is_only=len(messages) == 1)


def _message(message: dict[str, Any], contacts: list[dict[str, Any]], is_only: bool) -> DirectMessage | None:
    key, kind = message.get("id"), message.get("type")
    if "group_id" in message or not isinstance(key, str) or not isinstance(kind, str):
        return None
    if kind in _EVENTS:
        note_event(Channel.WHATSAPP, kind)
        return None
    senders = _sender_ids(message, contacts, is_only)
    text = _text(kind, message) if senders else None
    return None if text is None else direct_message(Channel.WHATSAPP, senders, key, text)


def _sender_ids(message: dict[str, Any], contacts: list[dict[str, Any]], is_only: bool) -> list[str]:
    """Return the ids of the sender: phone number, business-scoped id, parent business-scoped id.

    A message may contain any of them: the phone number of a person with a username is missing. ``contacts`` describes
    the senders of the notification, and the entry with an id of this message adds ids that the message lacks.
    """
    ids = [message.get("from"), message.get("from_user_id"), message.get("from_parent_user_id")]
    if any(value is not None and not isinstance(value, str) for value in ids):
        return []
    for contact in contacts:
        other = [contact.get("wa_id"), contact.get("user_id"), contact.get("parent_user_id")]
        is_same = any(a and a == b for a, b in zip(ids, other, strict=True))
        if is_same or (is_only and len(contacts) == 1 and not any(ids)):
            ids = [a or (b if isinstance(b, str) else None) for a, b in zip(ids, other, strict=True)]
    return [value for value in ids if value]


def _text(kind: str, message: dict[str, Any]) -> str | None:
    """Return the text or caption, else the words of the content, or None for a text that is not text."""
    content = message.get(kind)
    if kind == "text" and not (isinstance(content, dict) and isinstance(content.get("body"), str)):
        note_event(Channel.WHATSAPP, "text without a body")
        return None
    if isinstance(content, dict):
        if isinstance(text := content.get("body" if kind == "text" else "caption"), str) and text:
            return f"{text}{_reference(message)}"
        if kind == "interactive" and isinstance(inner := content.get("type"), str):
            kind, content = inner, content.get(inner)
        elif kind == "audio" and content.get("voice") is True:
            kind = "voice"
    if kind in ("unsupported", "unknown"):
        content = [content, *_objects(message.get("errors"))]
    return f"{labelled(kind, content, _CONTENTS.get(kind))}{_reference(message)}"


def _reference(message: dict[str, Any]) -> str:
    """Return what the message is about, which the person did not type: a product of the catalogue, or an ad."""
    context = message.get("context")
    product = context.get("referred_product") if isinstance(context, dict) else None
    lines = []
    if isinstance(product, dict):
        lines.append(labelled("product", product, ("product_retailer_id", "catalog_id")))
    if isinstance(message.get("referral"), dict):
        lines.append(labelled("referral", message["referral"], ("headline", "body", "source_url")))
    return "".join(f"\n{line}" for line in lines)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
