"""How the gateway is, found out at each request: files, database, worker, MCP servers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
from attrs import define, field, frozen

from release_tasks.config.mcp_servers import McpServer
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.gateway.errors import SettingsError, StoreError
from release_tasks.gateway.home import GatewayHome
from release_tasks.gateway.mcp import McpMonitor, read_servers
from release_tasks.gateway.settings import Secrets, read_identity, read_settings
from release_tasks.gateway.store import Store
from release_tasks.gateway.worker import Worker
from release_tasks.pairing.policy import Pairing

__all__ = ["HealthReport", "Parts", "examine"]

_REHEARSED = {"running": None, "pid": None, "lastBeatSec": None, "detail": "left out of a rehearsal"}


@define
class Parts:
    """What a running gateway consists of."""

    home: GatewayHome
    store: Store
    worker: Worker
    mcp: McpMonitor
    pairing: Pairing
    secrets: Secrets
    is_rehearsal: bool = False
    started: float = field(factory=time.monotonic)


@frozen
class HealthReport:
    """The verdict (``ok``, ``degraded`` or ``failing``) and the ``data`` of the health answer."""

    status: str
    data: dict[str, Any]

    @property
    def reason(self) -> str:
        """Every problem, in one line."""
        return "; ".join(self.data["problems"])


def examine(parts: Parts) -> HealthReport:
    """Look at every part now; only a database that does not answer makes it ``failing``."""
    problems: list[str] = []
    settings = _settings(parts.home.settings, problems)
    identity = _identity(parts.home.identity, problems)
    database = _database(parts.store, problems)
    config, servers = _mcp_config(parts.home.mcp_servers, problems)
    states = _mcp_servers(parts.mcp, servers, problems)
    dispatcher = _REHEARSED if parts.is_rehearsal else _dispatcher(parts.worker, problems)
    pairing = _pairing(parts.pairing, problems)
    status = "degraded" if problems else "ok"
    if database["status"] != "ok":
        status = "failing"
    data = {
        "status": status,
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
        "mcpConfig": config,
        "mcpServers": states,
        "problems": problems,
    }
    return HealthReport(status, data)


def _settings(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        settings = read_settings(path)
    except SettingsError as error:
        return _fault("settings", error, problems)
    return {"status": "ok", "name": settings.name, "version": settings.version}


def _identity(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        identity = read_identity(folder)
    except SettingsError as error:
        return _fault("identity", error, problems)
    return {"status": "ok", "id": identity.id, "name": identity.name}


def _mcp_config(path: Path, problems: list[str]) -> tuple[dict[str, Any], list[McpServer] | None]:
    try:
        servers = read_servers(path)
    except SettingsError as error:
        return _fault("mcpConfig", error, problems), None
    return {"status": "ok", "detail": f"{len(servers)} configured"}, servers


def _fault(part: str, error: SettingsError, problems: list[str]) -> dict[str, Any]:
    problems.append(f"{part}: {error.message}")
    return {"status": "missing" if error.is_missing else "invalid", "detail": error.message}


def _pairing(pairing: Pairing, problems: list[str]) -> dict[str, Any]:
    try:
        pairing.check()
    except (StageFailed, OSError) as error:
        problems.append(f"pairing: {describe_error(error)}")
        return {"status": "unusable", "detail": describe_error(error)}
    return {"status": "ok"}


def _database(store: Store, problems: list[str]) -> dict[str, Any]:
    try:
        return {"status": "ok", **store.check()}
    except StoreError as error:
        problems.append(f"database: {error.message}")
        return {"status": "error", "detail": error.message}


def _mcp_servers(monitor: McpMonitor, servers: list[McpServer] | None, problems: list[str]) -> list[dict[str, Any]]:
    states = monitor.snapshot(servers)
    for state in states:
        if state["state"] == "error" or state["health"]["circuit"] == "open":
            problems.append(f"mcpServers.{state['id']}: {state['detail'] or 'its circuit is open'}")
    return states


def _dispatcher(worker: Worker, problems: list[str]) -> dict[str, Any]:
    state = worker.state()
    if not state.is_running:
        problems.append(f"dispatcher: {state.detail}")
    return {
        "running": state.is_running,
        "pid": state.pid,
        "lastBeatSec": None if state.last_beat is None else round(state.last_beat, 3),
        "detail": state.detail,
    }
