"""Ways to break a gateway on purpose, as a bad release would: each changes its state, so a rollback brings it back."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from release_tasks.core.durable import write_atomic
from release_tasks.gateway.connection import open_existing
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import read_json_object
from release_tasks.gateway.store import MessageStore

__all__ = ["FAULTS", "Fault", "break_gateway"]

_MESSAGES = 30
_BUSY_MILLISECONDS = 5_000
_SLOW_SECONDS = 2.0


@frozen
class Fault:
    """One way to break it, and what is seen then."""

    seen: str
    make: Callable[[GatewayPaths], None]


def break_gateway(home: GatewayPaths, what: str) -> Fault:
    """Break ``what``, a key of FAULTS, whether the gateway runs or not; raises GatewayError when it cannot be done."""
    fault = FAULTS[what]
    if home.is_new:
        raise GatewayError(f"There is no gateway in {home.root}; `inv gateway.start` lays one out.")
    try:
        fault.make(home)
    except (OSError, sqlite3.Error) as error:
        raise GatewayError(f"{what} cannot be broken: {error}.") from error
    return fault


def _break_queue(home: GatewayPaths) -> None:
    """Let deliveries go where nobody listens, one try each, and queue some."""
    _rewrite(home.settings, "delivery", {"url": "http://127.0.0.1:9/nobody", "timeoutSeconds": 1})
    _rewrite(home.settings, "dispatcher", {"pollSeconds": 0.1, "maxAttempts": 1, "backoffSeconds": 0})
    with contextlib.closing(MessageStore(home.database)) as store:
        for number in range(_MESSAGES):
            store.add_message("broken", "nobody", f"message {number} of a broken release")


def _break_database(home: GatewayPaths) -> None:
    """Overwrite the header, as a program does that takes the file for its own."""
    with contextlib.closing(open_existing(home.database, busy_ms=_BUSY_MILLISECONDS, read_only=False)) as connection:
        # What lies in the WAL would stand in for the page that is overwritten.
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if is_busy:
        raise GatewayError("The database is in use just now; try again.")
    with home.database.open("r+b") as file:
        file.write(b"\0" * 100)
        os.fsync(file.fileno())


def _rewrite(path: Path, key: str, value: object) -> None:
    write_atomic(path, (json.dumps({**read_json_object(path), key: value}, indent=2) + "\n").encode())


FAULTS: dict[str, Fault] = {
    "mcp": Fault(
        "health is degraded: an MCP server cannot be started",
        lambda home: _rewrite(
            home.mcp_servers, "mcpServers", {"broken": {"command": "/nonexistent/mcp-server", "args": []}}
        ),
    ),
    "queue": Fault("messages are given up, and /reliability counts them", _break_queue),
    "identity": Fault(
        "health is degraded: identity.json is missing",
        lambda home: (home.identity / "identity.json").unlink(missing_ok=True),
    ),
    "database": Fault("health fails: the file is not a database", _break_database),
    "slow": Fault(
        f"health takes {_SLOW_SECONDS:g} s longer",
        lambda home: _rewrite(home.settings, "faults", {"slowSeconds": _SLOW_SECONDS}),
    ),
    "flapping": Fault(
        "every second health answer fails", lambda home: _rewrite(home.settings, "faults", {"isFlapping": True})
    ),
}
