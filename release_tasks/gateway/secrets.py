"""The secrets that a gateway takes from its environment to check requests with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from attrs import field, frozen

from release_tasks.config.gateway import API_SECRET, TELEGRAM_SECRET, WHATSAPP_SECRET, WHATSAPP_VERIFY_TOKEN

__all__ = ["Secrets"]


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
