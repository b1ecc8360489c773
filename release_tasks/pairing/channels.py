"""The channels that direct messages come in by."""

from __future__ import annotations

import enum

from release_tasks.core.errors import UsageError

__all__ = ["Channel", "parse_channel"]


class Channel(enum.Enum):
    """A channel; its value is its name in commands, files and events."""

    TELEGRAM = "telegram"
    WHATSAPP = "whatsapp"


def parse_channel(text: str) -> Channel:
    """Return the channel that is called ``text``, in any case; raises UsageError when none is."""
    try:
        return Channel(text.strip().lower())
    except ValueError:
        known = " or ".join(channel.value for channel in Channel)
        raise UsageError(f"There is no channel {text!r}: use {known}.") from None
