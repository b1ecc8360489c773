"""The channels of direct messages and the normalised sender ids of each channel.

Each kind of WhatsApp id has its own format: a phone number, an ``@lid`` id and a business-scoped id with the same
digits are three different senders: 15551234567, 15551234567@lid, US.15551234567.
"""

from __future__ import annotations

import contextlib
import enum
import re
import unicodedata
from collections.abc import Iterable

from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import UsageError

__all__ = [
    "Channel",
    "SenderRefused",
    "is_shared_id",
    "is_spelling_of",
    "normalise_sender",
    "parse_channel",
    "sender_of",
    "senders_of",
    "valid_ids",
]

_TELEGRAM_ID = re.compile(r"[1-9][0-9]{0,15}")  # at most 52 bits (Bot API, User.id)
_TELEGRAM_CHAT = re.compile(r"-[0-9]+")
_PHONE = re.compile(r"[1-9][0-9]{4,14}")  # E.164: at most 15 digits, no country code begins with 0
_DEVICE = re.compile(r"[0-9]{1,5}")
_LID = re.compile(r"[1-9][0-9]{0,19}")
_BUSINESS_SCOPED = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]{1,128}")  # Meta's documentation of user ids
_PHONE_SERVERS = ("s.whatsapp.net", "c.us")
_SHARED_IDS = {
    "g.us": "a group",
    "broadcast": "a broadcast or status",
    "newsletter": "a newsletter",
}


class Channel(enum.Enum):
    """A channel; the value is its name in commands, files and events."""

    TELEGRAM = "telegram"
    WHATSAPP = "whatsapp"

    @property
    def has_several_ids(self) -> bool:
        """Whether a message can contain several ids of its sender."""
        return self is Channel.WHATSAPP


def parse_channel(text: str) -> Channel:
    """Return the channel with the name ``text``, in upper or lower case; raises UsageError for an unknown name."""
    try:
        return Channel(text.strip().lower())
    except ValueError:
        known = " or ".join(channel.value for channel in Channel)
        raise UsageError(f"There is no channel {text!r}: use {known}.") from None


class SenderRefused(UsageError):
    """The text is not a valid id of one sender; ``is_shared_id`` when the id belongs to more than one person."""

    def __init__(self, channel: Channel, text: str, reason: str, is_shared_id: bool = False) -> None:
        super().__init__(f"{excerpt(text)!r} is not a valid {channel.value} sender: {reason}.")
        self.reason = reason
        self.is_shared_id = is_shared_id


def normalise_sender(channel: Channel, text: str) -> str:
    """Return the normalised id of a sender; a normalised id is unchanged.

    Raises SenderRefused, with the reason, unless ``text`` is the id of exactly one person.
    """
    if "*" in text:
        raise SenderRefused(channel, text, "a wildcard cannot be approved; approve each sender", is_shared_id=True)
    return _telegram(text) if channel is Channel.TELEGRAM else _whatsapp(text)


def is_shared_id(channel: Channel, text: str) -> bool:
    """Return whether ``text`` is an id of more than one person: a group, a channel, a wildcard."""
    if _is_plain_number(text):
        return False
    try:
        normalise_sender(channel, text)
    except SenderRefused as refusal:
        return refusal.is_shared_id
    return False


def is_spelling_of(channel: Channel, text: str, sender: str) -> bool:
    """Return whether ``text``, which another program may have written, is an id of the normalised ``sender``."""
    return text == sender if _is_plain_number(text) else sender_of(channel, text) == sender


def sender_of(channel: Channel, entry: str) -> str:
    """Return the normalised sender of an entry; an invalid id, which another program may accept, is unchanged."""
    try:
        return normalise_sender(channel, entry)
    except SenderRefused:
        return entry


def senders_of(channel: Channel, entries: Iterable[str]) -> set[str]:
    """Return the normalised senders of the entries of a store, without invalid and shared ids."""
    # Most entries match and are already normalised.
    common_format = _TELEGRAM_ID if channel is Channel.TELEGRAM else _PHONE
    senders: set[str] = set()
    for entry in entries:
        if common_format.fullmatch(entry):
            senders.add(entry)
            continue
        with contextlib.suppress(SenderRefused):
            senders.add(normalise_sender(channel, entry))
    return senders


def _is_plain_number(text: str) -> bool:
    # A plain number is either normalised or invalid. This shortcut keeps a search in a store of many thousands fast.
    return text.isascii() and text.isdigit() and text[0] != "0"


def _telegram(text: str) -> str:
    name = text.strip()
    if _TELEGRAM_ID.fullmatch(name):
        return name
    if _TELEGRAM_CHAT.fullmatch(name):
        raise SenderRefused(Channel.TELEGRAM, text, "a negative id is a group or a channel", is_shared_id=True)
    if name.startswith("@") or name[:1].isalpha():
        reason = "another person can get the same username later; use the numeric user id"
    else:
        reason = "expected a numeric user id without leading zeros"
    raise SenderRefused(Channel.TELEGRAM, text, reason)


def _whatsapp(text: str) -> str:
    user, at, server = text.strip().partition("@")
    server = server.lower()
    if not at:
        return user if _BUSINESS_SCOPED.fullmatch(user) else _phone(text, user)
    if server in _PHONE_SERVERS:
        return _phone(text, user)
    if server == "lid":
        number = _without_device(text, user)
        if not _LID.fullmatch(number):
            raise SenderRefused(Channel.WHATSAPP, text, "expected digits before '@lid'")
        return f"{number}@lid"
    if server in _SHARED_IDS:
        raise SenderRefused(Channel.WHATSAPP, text, f"it is {_SHARED_IDS[server]}", is_shared_id=True)
    raise SenderRefused(Channel.WHATSAPP, text, f"unknown id type '@{excerpt(server)}'")


def _phone(text: str, user: str) -> str:
    # Not str.isspace: two numbers on two lines must not become one number.
    unspaced = "".join(c for c in user if c != "\t" and unicodedata.category(c) != "Zs")
    dialled = _without_device(text, unspaced)
    dialled = dialled[1:] if dialled.startswith("+") else dialled.removeprefix("00")
    if not _PHONE.fullmatch(dialled):
        reason = "expected a phone number with country code, 5 to 15 digits, such as +1 555 123 4567"
        raise SenderRefused(Channel.WHATSAPP, text, reason)
    return dialled


def _without_device(text: str, user: str) -> str:
    user, colon, device = user.partition(":")
    if colon and not _DEVICE.fullmatch(device):
        raise SenderRefused(Channel.WHATSAPP, text, "expected a device number after ':'")
    return user


def valid_ids(channel: Channel, senders: Iterable[str]) -> list[str]:
    """Return the normalised ids in order, without invalid ones; none when one belongs to several people."""
    ids: dict[str, None] = {}
    for sender in senders:
        try:
            ids[normalise_sender(channel, sender)] = None
        except SenderRefused as refusal:
            if refusal.is_shared_id:
                return []
    return list(ids)
