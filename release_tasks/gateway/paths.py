"""The folder the gateway lives in: what is where, and how a brand-new one is laid out."""

from __future__ import annotations

import os
import secrets
import sys
from importlib import resources
from pathlib import Path

from release_tasks.config.gateway import DATABASE
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import write_atomic
from release_tasks.gateway.store import create_database

__all__ = ["GatewayPaths"]

_SOUL = """\
# Who this gateway is

A small, patient post office. It takes every message it is given, delivers each at least once, in
order, and says plainly when it cannot. It keeps no message it was not given and tells nobody's
secrets.
"""
_DEFAULT_SETTINGS = {
    "name": "gateway",
    "version": "1.0.0",
    "dispatcher": {"pollSeconds": 1, "maxAttempts": 5, "backoffSeconds": 1},
    "delivery": {"url": None, "timeoutSeconds": 5},
}


class GatewayPaths:
    """The paths of one gateway's home folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / DATABASE  # messages, the delivery queue and callbacks
        self.identity = root / "identity"  # who this gateway is: identity.json and soul.md
        self.mcp_servers = root / "mcp-servers.json"  # the MCP servers this gateway talks to
        self.settings = root / "gateway.json"  # name, version, dispatcher and delivery settings
        self.gui = root / "gui" / "index.html"  # the page that ``GET /`` serves
        self.credentials = root / "credentials"  # who may write, unless the configuration names another folder
        self.outbox = root / "outbox.jsonl"  # where messages are delivered to unless gateway.json names a URL
        self.pid_file = root / "gateway.pid"  # who runs this home: see ``pidfile``
        self.lock_file = root / "gateway.lock"  # held (flock) by the one gateway that runs in this home
        self.log_file = root / "gateway.log"  # output of a gateway that runs in the background
        self._unfinished = root / ".laying-out"  # lets a first start that was killed be finished by the next one

    @property
    def is_new(self) -> bool:
        """Whether nothing of a gateway is here yet, or a first lay-out was cut short."""
        parts = (self.database, self.identity, self.mcp_servers, self.settings, self.gui.parent)
        return self._unfinished.exists() or not any(os.path.lexists(part) for part in parts)

    def make_root(self) -> None:
        """Make the folder itself, 0700; one that exists keeps its mode."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lay_out(self) -> bool:
        """Fill a brand-new home and return whether that was done.

        A home that was in use before is left as it is: a part that got lost must be restored, and putting a fresh one
        in its place would hide the loss.
        """
        self.make_root()
        if not self.is_new:
            return False
        write_atomic(self._unfinished, b"")
        self.identity.mkdir(mode=0o700, exist_ok=True)
        self.gui.parent.mkdir(mode=0o700, exist_ok=True)
        identity = {"id": f"gw_{secrets.token_hex(8)}", "name": "gateway", "createdAt": timestamp()}
        # The interpreter's own path: a service started by a supervisor often has no venv on its PATH.
        clock = {"command": sys.executable, "args": ["-m", "release_tasks.gateway.mcp_clock"]}
        page = resources.files("release_tasks.gateway") / "gui" / "index.html"
        for path, content in (
            (self.identity / "identity.json", pretty_bytes(identity)),
            (self.identity / "soul.md", _SOUL.encode()),
            (self.mcp_servers, pretty_bytes({"mcpServers": {"clock": clock}})),
            (self.settings, pretty_bytes(_DEFAULT_SETTINGS)),
            (self.gui, page.read_bytes()),
        ):
            if not path.exists():
                write_atomic(path, content)
        create_database(self.database)
        self._unfinished.unlink()
        return True
