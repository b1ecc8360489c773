"""A direct message as the gateway takes it, whichever channel it came by."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from release_tasks.pairing.channels import Channel, SenderRefused, normalise_sender

__all__ = ["DirectMessage", "direct_message", "is_number"]

_MAX_KEY = 500


@frozen(kw_only=True)
class DirectMessage:
    """What one person wrote to the service alone; ``key`` is the channel's own id of it, the same at each retry."""

    channel: Channel
    sender: str
    key: str
    text: str


def direct_message(channel: Channel, sender: str, key: str, text: str) -> DirectMessage | None:
    """Return the message of a normalised sender, or None when ``sender`` names no single person."""
    try:
        person = normalise_sender(channel, sender)
    except SenderRefused:
        return None
    if not key or len(key) > _MAX_KEY:
        return None
    return DirectMessage(channel=channel, sender=person, key=_storable(key), text=_storable(text))


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _storable(text: str) -> str:
    # A lone surrogate is valid JSON, and nothing that a database or a socket takes.
    return text.encode("utf-8", "replace").decode()
