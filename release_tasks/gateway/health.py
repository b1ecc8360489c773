"""How the gateway is, found out at each request: files, database, worker, MCP servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import psutil
from attrs import define, field

from release_tasks.config.mcp_servers import McpServer
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.gateway.dispatcher import Worker
from release_tasks.gateway.errors import SettingsError, StoreError
from release_tasks.gateway.mcp import McpMonitor, read_servers
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import Secrets, read_identity, read_settings
from release_tasks.gateway.store import MessageStore
from release_tasks.pairing.policy import Pairing

__all__ = ["Parts", "examine"]

_REHEARSED: dict[str, Any] = {"running": None, "pid": None, "lastBeatSec": None, "detail": "left out of a rehearsal"}


@define
class Parts:
    """What a running gateway consists of."""

    home: GatewayPaths
    store: MessageStore
    worker: Worker
    mcp: McpMonitor
    pairing: Pairing
    secrets: Secrets
    is_rehearsal: bool = False
    started: float = field(factory=time.monotonic)


def examine(parts: Parts) -> dict[str, Any]:
    """Examine every part now and return the ``data`` of the health answer.

    Its ``status`` is ``ok``, ``degraded``, or ``failing``, which only a database that does not answer makes it.
    """
    problems: list[str] = []
    servers: list[McpServer] | None = None

    def part(name: str, read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Return what ``read`` returns of a part, or what keeps it from that."""
        try:
            return {"status": "ok", **(read() or {})}
        except SettingsError as error:
            status, detail = "missing" if error.is_missing else "invalid", error.message
        except StoreError as error:
            status, detail = "error", error.message
        except (StageFailed, OSError) as error:
            status, detail = "unusable", describe_error(error)
        problems.append(f"{name}: {detail}")
        return {"status": status, "detail": detail}

    def check_settings() -> dict[str, Any]:
        found = read_settings(parts.home.settings)
        return {"name": found.name, "version": found.version}

    def check_mcp_config() -> dict[str, Any]:
        nonlocal servers
        servers = read_servers(parts.home.mcp_servers)
        return {"detail": f"{len(servers)} configured"}

    settings = part("settings", check_settings)
    identity = part("identity", lambda: read_identity(parts.home.identity))
    database = part("database", parts.store.check)
    mcp_config = part("mcpConfig", check_mcp_config)
    mcp_servers = parts.mcp.snapshot(servers)
    for server in mcp_servers:
        if server["state"] == "error" or server["health"]["circuit"] == "open":
            problems.append(f"mcpServers.{server['id']}: {server['detail'] or 'its circuit is open'}")
    dispatcher = _REHEARSED if parts.is_rehearsal else parts.worker.state()
    if dispatcher["running"] is False:
        problems.append(f"dispatcher: {dispatcher['detail']}")
    pairing = part("pairing", parts.pairing.check)
    return {
        "status": "failing" if database["status"] != "ok" else "degraded" if problems else "ok",
        "pid": os.getpid(),
        "uptimeSec": round(time.monotonic() - parts.started, 3),
        "memoryUsageMb": round(psutil.Process().memory_info().rss / 2**20, 1),
        "heartbeat": {"running": dispatcher["running"]},
        "dispatcher": dispatcher,
        "settings": settings,
        "identity": identity,
        "pairing": {**pairing, "webhooks": parts.secrets.webhooks()},
        "queue": database.pop("queue", None),
        "database": database,
        "mcpConfig": mcp_config,
        "mcpServers": mcp_servers,
        "problems": problems,
    }
