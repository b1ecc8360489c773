"""The health of the gateway, checked at each request: files, database, worker, MCP servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from attrs import define, field

from release_tasks.config.mcp_servers import McpServer
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.gateway.disk import check_folders
from release_tasks.gateway.dispatcher import Worker
from release_tasks.gateway.errors import SettingsError, StoreError
from release_tasks.gateway.mcp import McpMonitor, read_servers
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import Secrets, read_identity, read_settings
from release_tasks.gateway.store import MessageStore
from release_tasks.pairing.policy import Pairing

__all__ = ["Parts", "examine"]

_NO_DISPATCHER: dict[str, Any] = {
    "running": None,
    "pid": None,
    "lastBeatSec": None,
    "paused": False,
    "detail": "not in a rehearsal",
}


@define
class Parts:
    """The parts of a running gateway."""

    paths: GatewayPaths
    store: MessageStore
    worker: Worker
    mcp: McpMonitor
    pairing: Pairing
    credentials: Path  # the folder of the pairing stores
    secrets: Secrets
    is_rehearsal: bool = False
    started: float = field(factory=time.monotonic)


def examine(parts: Parts) -> dict[str, Any]:
    """Check every part and return the ``data`` of the health response.

    The ``status`` is ``ok``, ``degraded`` or ``failing``; ``failing`` means that the database cannot be read. A gateway
    that cannot write is ``degraded``.
    """
    problems: list[str] = []
    servers: list[McpServer] | None = None

    def part(name: str, read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Return the result of ``read``, or the status and detail of its error."""
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
        settings = read_settings(parts.paths.settings)
        return {"name": settings.name, "version": settings.version}

    def check_mcp_config() -> dict[str, Any]:
        nonlocal servers
        servers = read_servers(parts.paths.mcp_servers)
        return {"detail": f"{len(servers)} configured"}

    def check_storage() -> None:
        folders = (parts.paths.database.resolve().parent, parts.paths.root, parts.credentials)
        check_folders(folders)
        parts.store.check_writes()

    settings = part("settings", check_settings)
    identity = part("identity", lambda: read_identity(parts.paths.identity))
    database = part("database", parts.store.check)
    storage = part("storage", check_storage)
    mcp_config = part("mcpConfig", check_mcp_config)
    mcp_servers = parts.mcp.states(servers)
    for server in mcp_servers:
        if server["state"] == "error" or server["health"]["circuit"] == "open":
            problems.append(f"mcpServers.{server['id']}: {server['detail'] or 'the circuit is open'}")
    dispatcher = _NO_DISPATCHER if parts.is_rehearsal else parts.worker.state()
    if dispatcher["running"] is False:
        problems.append(f"dispatcher: {dispatcher['detail']}")
    elif dispatcher["paused"] and not any(problem.endswith(dispatcher["detail"]) for problem in problems):
        problems.append(f"dispatcher: delivery is paused: {dispatcher['detail']}")
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
        "storage": storage,
        "mcpConfig": mcp_config,
        "mcpServers": mcp_servers,
        "problems": problems,
    }
