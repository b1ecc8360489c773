"""The secrets that a gateway takes from its environment, and who of its children may see which."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from attrs import field, frozen

__all__ = ["SENDING", "Secrets", "child_environment"]

API_SECRET = "API_SECRET"
TELEGRAM_SECRET = "TELEGRAM_WEBHOOK_SECRET"
TELEGRAM_TOKEN = "TELEGRAM_BOT_TOKEN"
WHATSAPP_SECRET = "WHATSAPP_APP_SECRET"
WHATSAPP_VERIFY_TOKEN = "WHATSAPP_VERIFY_TOKEN"
WHATSAPP_TOKEN = "WHATSAPP_ACCESS_TOKEN"

SENDING = (TELEGRAM_TOKEN, WHATSAPP_TOKEN)  # what the dispatcher needs, and nobody else
_ALL = (API_SECRET, TELEGRAM_SECRET, WHATSAPP_SECRET, WHATSAPP_VERIFY_TOKEN, *SENDING)


@frozen(kw_only=True)
class Secrets:
    """What incoming requests are checked with; None where it is not set. They are kept out of every repr."""

    api: str | None = field(default=None, repr=False)
    telegram: str | None = field(default=None, repr=False)
    whatsapp: str | None = field(default=None, repr=False)
    whatsapp_verify: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Secrets:
        """Read them; an empty variable counts as one that is not set."""
        return cls(
            api=environ.get(API_SECRET) or None,
            telegram=environ.get(TELEGRAM_SECRET) or None,
            whatsapp=environ.get(WHATSAPP_SECRET) or None,
            whatsapp_verify=environ.get(WHATSAPP_VERIFY_TOKEN) or None,
        )

    def webhooks(self) -> dict[str, str]:
        """Return by channel whether its webhook is ``open``, or ``closed`` for want of a secret to check with."""
        checked = {"telegram": self.telegram, "whatsapp": self.whatsapp}
        return {channel: "closed" if secret is None else "open" for channel, secret in checked.items()}


def child_environment(kept: Collection[str] = ()) -> dict[str, str]:
    """Return the environment for a child: without any secret but those in ``kept``."""
    return {name: value for name, value in os.environ.items() if name not in _ALL or name in kept}
