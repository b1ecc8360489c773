"""Faults for demonstrations: each breaks the state of a gateway, as a bad release does, and a rollback repairs it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from release_tasks.core.durable import write_atomic
from release_tasks.core.typed import typed
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
    """A fault and its symptom."""

    symptom: str
    inject: Callable[[GatewayPaths], None]


def break_gateway(paths: GatewayPaths, name: str) -> Fault:
    """Inject the fault ``name``, a key of FAULTS, in a running or stopped gateway; raises GatewayError on failure."""
    fault = FAULTS[name]
    if paths.is_new:
        raise GatewayError(
            f"There is no gateway in {paths.root}. To create one, run `{typed('gateway.start', '--root', paths.root)}`."
        )
    try:
        fault.inject(paths)
    except (OSError, sqlite3.Error) as error:
        raise GatewayError(f"The fault {name} cannot be injected: {error}.") from error
    return fault


def _break_queue(paths: GatewayPaths) -> None:
    """Set a delivery URL without a listener and one attempt per message, and queue messages."""
    _rewrite(paths.settings, "delivery", {"url": "http://127.0.0.1:9/unreachable", "timeoutSeconds": 1})
    _rewrite(paths.settings, "dispatcher", {"pollSeconds": 0.1, "maxAttempts": 1, "backoffSeconds": 0})
    with contextlib.closing(MessageStore(paths.database)) as store:
        for number in range(_MESSAGES):
            store.add_message("broken", "unreachable", f"message {number} of a broken release")


def _break_database(paths: GatewayPaths) -> None:
    """Overwrite the header of the database, as a faulty program could."""
    with contextlib.closing(open_existing(paths.database, busy_ms=_BUSY_MILLISECONDS, read_only=False)) as connection:
        # A page in the WAL would replace the overwritten page.
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if is_busy:
        raise GatewayError("The database is in use. Try again.")
    with paths.database.open("r+b") as file:
        file.write(b"\0" * 100)
        os.fsync(file.fileno())


def _rewrite(path: Path, key: str, value: object) -> None:
    write_atomic(path, (json.dumps({**read_json_object(path), key: value}, indent=2) + "\n").encode())


FAULTS: dict[str, Fault] = {
    "mcp": Fault(
        "health is degraded: an MCP server cannot be started",
        lambda paths: _rewrite(
            paths.mcp_servers, "mcpServers", {"broken": {"command": "/nonexistent/mcp-server", "args": []}}
        ),
    ),
    "queue": Fault("messages become dead letters, and /reliability counts them", _break_queue),
    "identity": Fault(
        "health is degraded: identity.json is missing",
        lambda paths: (paths.identity / "identity.json").unlink(missing_ok=True),
    ),
    "database": Fault("health fails: the file is not a database", _break_database),
    "slow": Fault(
        f"health takes {_SLOW_SECONDS:g} s longer",
        lambda paths: _rewrite(paths.settings, "faults", {"slowSeconds": _SLOW_SECONDS}),
    ),
    "flapping": Fault(
        "every second health response fails", lambda paths: _rewrite(paths.settings, "faults", {"isFlapping": True})
    ),
}
