"""The files of a gateway in its root folder, and the initialisation of a new root folder."""

from __future__ import annotations

import os
import secrets
import sys
from importlib import resources
from pathlib import Path

from release_tasks.config.gateway import DATABASE
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import keep_out_of_git, write_atomic
from release_tasks.core.owned import require_own
from release_tasks.gateway.store import create_database

__all__ = ["GatewayPaths"]

# Not "-m", which imports from the current folder first: another user may own a folder in it.
_CLOCK = "import sys; sys.path[:] = filter(None, sys.path); from release_tasks.gateway.mcp_clock import main; main()"
_DESCRIPTION = """\
# This gateway

A small message gateway. It stores every message that it accepts, delivers each message at least once, and reports a
delivery that fails. It does not log or forward secrets.
"""
_DEFAULT_SETTINGS = {
    "name": "gateway",
    "version": "1.0.0",
    "dispatcher": {"pollSeconds": 1, "maxAttempts": 5, "backoffSeconds": 1},
    "delivery": {"url": None, "timeoutSeconds": 5},
}


class GatewayPaths:
    """The paths of one gateway below its folder ``root``.

    Raises ForeignFolder in a run as root when another user can change the folder: its files name programs to start and
    a process to stop.
    """

    def __init__(self, root: Path) -> None:
        require_own(root, "gateway.root")
        self.root = root
        self.database = root / DATABASE  # messages, the delivery queue and callbacks
        self.identity = root / "identity"  # identity of this gateway: identity.json and soul.md
        self.mcp_servers = root / "mcp-servers.json"  # the configured MCP servers
        self.settings = root / "gateway.json"  # name, version, dispatcher and delivery settings
        self.gui = root / "gui" / "index.html"  # the page that ``GET /`` serves
        self.credentials = root / "credentials"  # pairing stores, unless the configuration names another folder
        self.outbox = root / "outbox.jsonl"  # delivered messages, unless gateway.json names a URL
        self.pid_file = root / "gateway.pid"  # the running process: see ``pidfile``
        self.lock_file = root / "gateway.lock"  # locked (flock) by the running gateway
        self.log_file = root / "gateway.log"  # output of a gateway in the background
        self._incomplete = root / ".laying-out"  # exists during an initialisation; after a kill, the next start resumes

    @property
    def is_new(self) -> bool:
        """Return whether the root folder contains no gateway files, or an initialisation was interrupted."""
        parts = (self.database, self.identity, self.mcp_servers, self.settings, self.gui.parent)
        return self._incomplete.exists() or not any(os.path.lexists(part) for part in parts)

    def make_root(self) -> None:
        """Create the root folder with mode 0700; an existing folder is unchanged."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def initialise(self) -> bool:
        """Create the files of a new gateway; return False without a change if the root folder is not new.

        A missing file of an existing gateway is not created again: it must be restored, and a new file would hide the
        loss.
        """
        self.make_root()
        if not self.is_new:
            return False
        write_atomic(self._incomplete, b"")
        keep_out_of_git(self.root)
        self.identity.mkdir(mode=0o700, exist_ok=True)
        self.gui.parent.mkdir(mode=0o700, exist_ok=True)
        identity = {"id": f"gw_{secrets.token_hex(8)}", "name": "gateway", "createdAt": timestamp()}
        # The path of the interpreter: under a supervisor, PATH often does not contain the virtual environment.
        clock = {"command": sys.executable, "args": ["-c", _CLOCK]}
        page = resources.files("release_tasks.gateway") / "gui" / "index.html"
        for path, content in (
            (self.identity / "identity.json", pretty_bytes(identity)),
            (self.identity / "soul.md", _DESCRIPTION.encode()),
            (self.mcp_servers, pretty_bytes({"mcpServers": {"clock": clock}})),
            (self.settings, pretty_bytes(_DEFAULT_SETTINGS)),
            (self.gui, page.read_bytes()),
        ):
            if not path.exists():
                write_atomic(path, content)
        create_database(self.database)
        self._incomplete.unlink()
        return True
