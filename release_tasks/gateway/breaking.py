"""Ways to break a gateway on purpose, as a bad release would: each changes its state, so a rollback brings it back."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable

from attrs import frozen

from release_tasks.core.durable import write_atomic
from release_tasks.gateway.connection import open_existing
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.home import GatewayHome
from release_tasks.gateway.settings import read_json_object
from release_tasks.gateway.store import Store

__all__ = ["FAULTS", "Fault", "break_gateway"]

_MESSAGES = 30
_BUSY_MILLISECONDS = 5_000
_SLOW_SECONDS = 2.0


@frozen
class Fault:
    """One way to break it, and what is seen then."""

    seen: str
    make: Callable[[GatewayHome], None]


def break_gateway(home: GatewayHome, what: str) -> Fault:
    """Break ``what``, a key of FAULTS, whether the gateway runs or not; raises GatewayError when it cannot be done."""
    fault = FAULTS[what]
    if home.is_new:
        raise GatewayError(f"There is no gateway in {home.root}; `inv gateway.start` lays one out.")
    try:
        fault.make(home)
    except (OSError, sqlite3.Error) as error:
        raise GatewayError(f"{what} cannot be broken: {error}.") from error
    return fault


def _break_mcp(home: GatewayHome) -> None:
    servers = {"broken": {"command": "/nonexistent/mcp-server", "args": []}}
    _rewrite(home, "mcpServers", servers, is_mcp=True)


def _break_queue(home: GatewayHome) -> None:
    """Let deliveries go where nobody listens, one try each, and queue some."""
    _rewrite(home, "delivery", {"url": "http://127.0.0.1:9/nobody", "timeoutSeconds": 1})
    _rewrite(home, "dispatcher", {"pollSeconds": 0.1, "maxAttempts": 1, "backoffSeconds": 0})
    store = Store(home.database)
    try:
        for number in range(_MESSAGES):
            store.add_message("broken", "nobody", f"message {number} of a broken release")
    finally:
        store.close()


def _break_identity(home: GatewayHome) -> None:
    (home.identity / "identity.json").unlink(missing_ok=True)


def _break_database(home: GatewayHome) -> None:
    """Overwrite the header, as a program does that takes the file for its own."""
    connection = open_existing(home.database, busy_ms=_BUSY_MILLISECONDS, read_only=False)
    try:  # what lies in the WAL would stand in for the page that is overwritten
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        connection.close()
    if is_busy:
        raise GatewayError("The database is in use just now; try again.")
    with home.database.open("r+b") as file:
        file.write(b"\0" * 100)
        os.fsync(file.fileno())


def _rewrite(home: GatewayHome, key: str, value: object, *, is_mcp: bool = False) -> None:
    path = home.mcp_servers if is_mcp else home.settings
    document = {**read_json_object(path), key: value}
    write_atomic(path, (json.dumps(document, indent=2) + "\n").encode())


FAULTS: dict[str, Fault] = {
    "mcp": Fault("health is degraded: an MCP server cannot be started", _break_mcp),
    "queue": Fault("messages are given up, and /reliability counts them", _break_queue),
    "identity": Fault("health is degraded: identity.json is missing", _break_identity),
    "database": Fault("health fails: the file is not a database", _break_database),
    "slow": Fault(
        f"health takes {_SLOW_SECONDS:g} s longer",
        lambda home: _rewrite(home, "faults", {"slowSeconds": _SLOW_SECONDS}),
    ),
    "flapping": Fault("every second health answer fails", lambda home: _rewrite(home, "faults", {"isFlapping": True})),
}
