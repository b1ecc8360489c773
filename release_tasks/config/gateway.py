"""Configuration of the embedded gateway: the keys in invoke.yaml and the environment variables that hold secrets."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from release_tasks.core.options import option

__all__ = ["DATABASE", "DELIVERY_TOKENS", "GatewayConfig", "child_environment"]

DATABASE = "gateway.db"  # relative to the gateway's root

API_SECRET = "API_SECRET"
TELEGRAM_SECRET = "TELEGRAM_WEBHOOK_SECRET"
TELEGRAM_TOKEN = "TELEGRAM_BOT_TOKEN"
WHATSAPP_SECRET = "WHATSAPP_APP_SECRET"
WHATSAPP_VERIFY_TOKEN = "WHATSAPP_VERIFY_TOKEN"
WHATSAPP_TOKEN = "WHATSAPP_ACCESS_TOKEN"

DELIVERY_TOKENS = (TELEGRAM_TOKEN, WHATSAPP_TOKEN)  # only the dispatcher gets them
_SECRETS = (API_SECRET, TELEGRAM_SECRET, WHATSAPP_SECRET, WHATSAPP_VERIFY_TOKEN, *DELIVERY_TOKENS)


def _valid_port(_: Any, attribute: Attribute[Any], value: int) -> None:
    if value > 65535:
        raise ValueError(f"{attribute.name}: expected a port, 0 to 65535, got {value}")


@frozen(kw_only=True)
class GatewayConfig:
    """The embedded gateway."""

    host: str = option("the address that the gateway listens on", "127.0.0.1")
    port: int = option("the port that the gateway listens on", 3100, validator=_valid_port)
    root: Path = option("the gateway's root folder: database, identity, configuration", "memory/gateway")
    allow_remote: bool = option(
        "allow a `host` that other machines can reach; they need `API_SECRET`, see the page of the gateway", False
    )

    @property
    def database(self) -> Path:
        """The SQLite database with messages, the delivery queue and callbacks."""
        return self.root / DATABASE


def child_environment(allowed: Collection[str] = ()) -> dict[str, str]:
    """Return the environment for a child process, without the gateway's secrets except those in ``allowed``."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS or name in allowed}
