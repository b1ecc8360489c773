"""The folder the gateway lives in: what is where, and how a brand-new one is laid out."""

from __future__ import annotations

import json
import os
import secrets
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from attrs import frozen

from release_tasks.config.gateway import DATABASE
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import write_atomic
from release_tasks.gateway.store import create_database

__all__ = ["GatewayHome"]

_SOUL = """\
# Who this gateway is

A small, patient post office. It takes every message it is given, delivers each at least once, in
order, and says plainly when it cannot. It keeps no message it was not given and tells nobody's
secrets.
"""


@frozen
class GatewayHome:
    """The paths of one gateway's home folder ``root``."""

    root: Path

    @property
    def database(self) -> Path:
        """Messages, the delivery queue and callbacks."""
        return self.root / DATABASE

    @property
    def identity(self) -> Path:
        """The folder that says who this gateway is: identity.json and soul.md."""
        return self.root / "identity"

    @property
    def mcp_servers(self) -> Path:
        """The MCP servers this gateway talks to."""
        return self.root / "mcp-servers.json"

    @property
    def settings(self) -> Path:
        """Name, version, dispatcher and delivery settings."""
        return self.root / "gateway.json"

    @property
    def gui(self) -> Path:
        """The page that ``GET /`` serves."""
        return self.root / "gui" / "index.html"

    @property
    def credentials(self) -> Path:
        """Where it is kept who may write, unless the configuration names another folder."""
        return self.root / "credentials"

    @property
    def outbox(self) -> Path:
        """Where messages are delivered to unless gateway.json names a URL."""
        return self.root / "outbox.jsonl"

    @property
    def pid_file(self) -> Path:
        """Who runs this home: see ``pidfile``."""
        return self.root / "gateway.pid"

    @property
    def lock_file(self) -> Path:
        """Held (flock) by the one gateway that runs in this home."""
        return self.root / "gateway.lock"

    @property
    def log_file(self) -> Path:
        """Output of a gateway that runs in the background."""
        return self.root / "gateway.log"

    @property
    def is_new(self) -> bool:
        """Whether nothing of a gateway is here yet, or a first lay-out was cut short."""
        parts = (self.database, self.identity, self.mcp_servers, self.settings, self.gui.parent)
        return self._unfinished.exists() or not any(os.path.lexists(part) for part in parts)

    @property
    def _unfinished(self) -> Path:
        return self.root / ".laying-out"

    def make_root(self) -> None:
        """Make the folder itself, 0700; one that exists keeps its mode."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lay_out(self) -> bool:
        """Fill a brand-new home and return whether that was done.

        A home that was in use before is left as it is: a part that got lost must be restored, and
        putting a fresh one in its place would hide the loss.
        """
        self.make_root()
        if not self.is_new:
            return False
        # The marker lets a first start that was killed half-way be finished by the next one.
        write_atomic(self._unfinished, b"")
        self.identity.mkdir(mode=0o700, exist_ok=True)
        self.gui.parent.mkdir(mode=0o700, exist_ok=True)
        page = resources.files("release_tasks.gateway") / "gui" / "index.html"
        for path, content in (
            (self.identity / "identity.json", _as_json(_new_identity())),
            (self.identity / "soul.md", _SOUL.encode()),
            (self.mcp_servers, _as_json(_bundled_mcp_servers())),
            (self.settings, _as_json(_default_settings())),
            (self.gui, page.read_bytes()),
        ):
            if not path.exists():
                write_atomic(path, content)
        create_database(self.database)
        self._unfinished.unlink()
        return True


def _as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _new_identity() -> dict[str, Any]:
    return {"id": f"gw_{secrets.token_hex(8)}", "name": "gateway", "createdAt": timestamp()}


def _bundled_mcp_servers() -> dict[str, Any]:
    # The interpreter's own path: a service started by a supervisor often has no venv on its PATH.
    clock = {"command": sys.executable, "args": ["-m", "release_tasks.gateway.mcp_clock"]}
    return {"mcpServers": {"clock": clock}}


def _default_settings() -> dict[str, Any]:
    return {
        "name": "gateway",
        "version": "1.0.0",
        "dispatcher": {"pollSeconds": 1, "maxAttempts": 5, "backoffSeconds": 1},
        "delivery": {"url": None, "timeoutSeconds": 5},
    }
