"""What is set of the embedded gateway: its keys in invoke.yaml, and the secrets that it takes from the environment."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from release_tasks.core.options import option

__all__ = ["DATABASE", "SENDING", "GatewayConfig", "child_environment"]

DATABASE = "gateway.db"  # below the gateway's root

API_SECRET = "API_SECRET"
TELEGRAM_SECRET = "TELEGRAM_WEBHOOK_SECRET"
TELEGRAM_TOKEN = "TELEGRAM_BOT_TOKEN"
WHATSAPP_SECRET = "WHATSAPP_APP_SECRET"
WHATSAPP_VERIFY_TOKEN = "WHATSAPP_VERIFY_TOKEN"
WHATSAPP_TOKEN = "WHATSAPP_ACCESS_TOKEN"

SENDING = (TELEGRAM_TOKEN, WHATSAPP_TOKEN)  # what the dispatcher needs, and nobody else
_ALL = (API_SECRET, TELEGRAM_SECRET, WHATSAPP_SECRET, WHATSAPP_VERIFY_TOKEN, *SENDING)


def _valid_port(_: Any, attribute: Attribute[Any], value: int) -> None:
    if value > 65535:
        raise ValueError(f"{attribute.name}: expected a port, 0 to 65535, got {value}")


@frozen(kw_only=True)
class GatewayConfig:
    """Everything under `gateway:`, the embedded gateway."""

    host: str = option("the address it listens on", "127.0.0.1")
    port: int = option("the port it listens on", 3100, validator=_valid_port)
    root: Path = option("its home: database, identity, configuration", "memory/gateway")
    allow_remote: bool = option("allow a `host` that other machines can reach", False)

    @property
    def database(self) -> Path:
        """Where its messages, the delivery queue and callbacks are kept."""
        return self.root / DATABASE


def child_environment(kept: Collection[str] = ()) -> dict[str, str]:
    """Return the environment for a child: without any secret but those in ``kept``."""
    return {name: value for name, value in os.environ.items() if name not in _ALL or name in kept}
