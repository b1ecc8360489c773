"""How a message goes out through the channel of its recipient: one call of Telegram's or Meta's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from release_tasks.config.gateway import TELEGRAM_TOKEN, WHATSAPP_TOKEN
from release_tasks.gateway.settings import Settings
from release_tasks.pairing.channels import Channel

__all__ = ["Call", "channel_call"]


@frozen
class Call:
    """One POST; ``name`` is what a log may call it, since the URL or a header may hold a token."""

    name: str
    url: str = field(repr=False)
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)


def channel_call(channel: str, to: str, text: str, settings: Settings, environ: Mapping[str, str]) -> Call | None:
    """Return the call that sends ``text``, or None when it goes elsewhere: no such channel, or no token for it."""
    if channel == Channel.TELEGRAM.value and environ.get(TELEGRAM_TOKEN):
        url = f"{settings.telegram_api}/bot{environ[TELEGRAM_TOKEN]}/sendMessage"
        return Call("the Telegram Bot API", url, {"chat_id": to, "text": text}, {})
    number = settings.whatsapp_phone_number_id
    if channel == Channel.WHATSAPP.value and environ.get(WHATSAPP_TOKEN) and number:
        # A person without a phone number is addressed by the id that this business knows them by.
        recipient = {"to": to} if to.isdigit() else {"recipient": to}
        body = {"messaging_product": "whatsapp", **recipient, "type": "text", "text": {"body": text}}
        headers = {"Authorization": f"Bearer {environ[WHATSAPP_TOKEN]}"}
        return Call("the WhatsApp Cloud API", f"{settings.whatsapp_api}/{number}/messages", body, headers)
    return None
