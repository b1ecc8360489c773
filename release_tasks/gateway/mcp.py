"""The state of each configured MCP server, kept up in the background by talking to it.

Nothing here waits on a server while health is asked: health reads the last known state.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from release_tasks.config.mcp_servers import McpServer, parse_servers
from release_tasks.core.canonical import InvalidDocument
from release_tasks.gateway.errors import McpError, SettingsError
from release_tasks.gateway.mcp_session import McpSession
from release_tasks.gateway.settings import read_json_object

__all__ = ["CircuitBreaker", "McpMonitor", "ServerLink", "read_servers", "usable_servers"]

_LOG = logging.getLogger("gateway.mcp")
_HANDSHAKE_SECONDS = 10.0
_REFRESH_SECONDS = 30.0
_CONFIG_SECONDS = 1.0
_FAILURES_TO_OPEN = 3
_COOLDOWN_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 1.2
_UNSUPPORTED = "a server with a url is not supported: this gateway talks to MCP servers over stdio only"


def read_servers(path: Path) -> list[McpServer]:
    """Return the servers that ``path`` names; raises SettingsError."""
    return usable_servers(read_json_object(path), path.name)


def usable_servers(document: dict[str, Any], source: str) -> list[McpServer]:
    """Return the servers that a configuration called ``source`` names.

    Raises SettingsError for a list, or an enabled command, of the wrong form. A server with a url alone is returned:
    its state says that it is not supported.
    """
    try:
        servers, problems = parse_servers(document, source)
    except InvalidDocument as error:
        raise SettingsError(str(error)) from error
    for server in servers:
        if not server.is_disabled and (server.command is not None or server.url is None):
            problems += [f"{source}: server {server.id!r} {problem}" for problem in server.command_problems]
    if problems:
        raise SettingsError(problems[0])
    return servers


class CircuitBreaker:
    """Closed while a server answers; open for a while after some failures in a row; then half-open.

    While it is open the server is left alone; half-open means that one try is under way or due.
    """

    def __init__(self, failures_to_open: int, cooldown: float) -> None:
        self._failures_to_open = failures_to_open
        self._cooldown = cooldown
        self._opened: float | None = None
        self.failures = 0

    @property
    def remaining(self) -> float:
        """Seconds until the next try is allowed."""
        if self._opened is None:
            return 0.0
        return max(self._opened + self._cooldown - time.monotonic(), 0.0)

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened is None:
            return "closed"
        return "open" if self.remaining > 0 else "half-open"

    def succeeded(self) -> None:
        """Close it."""
        self.failures, self._opened = 0, None

    def failed(self) -> None:
        """Count a failure, which opens it once there are enough."""
        self.failures += 1
        if self.failures >= self._failures_to_open:
            self._opened = time.monotonic()


class ServerLink:
    """One server's thread: connects, stays connected, and comes back after a failure."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._circuit = CircuitBreaker(_FAILURES_TO_OPEN, _COOLDOWN_SECONDS)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._session: McpSession | None = None
        self._state = "disconnected" if server.is_disabled else "connecting"
        self._tools = 0
        self._detail: str | None = None
        if self._state == "connecting" and server.command is None:
            self._state, self._detail = "error", _UNSUPPORTED
        self._thread = threading.Thread(target=self._run, name=f"mcp-{server.id}", daemon=True)

    def start(self) -> None:
        """Connect, in the background; a server that is disabled or not supported is left alone."""
        if self._state == "connecting":
            self._thread.start()

    def snapshot(self) -> dict[str, Any]:
        """Return the last known state."""
        return {
            "id": self.server.id,
            "name": self.server.name,
            "state": self._state,
            "toolCount": self._tools,
            "detail": self._detail,
            "health": {
                "circuit": self._circuit.state,
                "failureCount": self._circuit.failures,
                "remainingCooldownMs": round(self._circuit.remaining * 1000),
            },
        }

    def ask_to_stop(self) -> None:
        """Make the thread end its conversation; see ``join``."""
        self._stopping.set()
        with self._lock, contextlib.suppress(OSError):
            if self._session is not None:
                self._session.cancel()

    def join(self, timeout: float) -> None:
        """Wait until the server's process is gone."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._converse()
            except McpError as error:
                self._note_failure(error.message)
            except Exception:
                _LOG.exception("MCP server %s", self.server.id)
                self._note_failure("an unexpected error, see the log")
            self._stopping.wait(max(self._circuit.remaining, _RETRY_SECONDS))

    def _converse(self) -> None:
        """Connect and stay connected; raises McpError as soon as the server does not answer."""
        if self._state != "error":
            self._state = "connecting"
        session = McpSession(self.server)
        with self._lock:
            self._session = session
        try:
            if self._stopping.is_set():
                return  # asked to while the command was being started
            self._note_success(session.handshake(_HANDSHAKE_SECONDS))
            while not self._stopping.is_set():
                session.listen(_REFRESH_SECONDS)
                self._note_success(session.count_tools(time.monotonic() + _HANDSHAKE_SECONDS))
        finally:
            with self._lock:
                self._session = None
            session.close()

    def _note_success(self, tools: int) -> None:
        self._circuit.succeeded()
        self._state, self._tools, self._detail = "connected", tools, None

    def _note_failure(self, detail: str) -> None:
        if self._stopping.is_set():
            return
        self._circuit.failed()
        if detail != self._detail:
            _LOG.warning("MCP server %s: %s", self.server.id, detail)
        self._state, self._tools, self._detail = "error", 0, detail


class McpMonitor:
    """Keeps one link per server that the config file names now; a changed entry gets a new link."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._links: dict[str, ServerLink] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mcp-monitor", daemon=True)

    def start(self) -> None:
        """Follow the config file, in the background."""
        self._thread.start()

    def snapshot(self, servers: list[McpServer] | None) -> list[dict[str, Any]]:
        """Return the state of each of ``servers``, or (None) of those known from before."""
        with self._lock:
            links = dict(self._links)
        if servers is None:
            return [link.snapshot() for link in links.values()]
        states = []
        for server in servers:
            link = links.get(server.id)
            if link is None or link.server != server:
                self._woken.set()  # the file changed a moment ago
                link = ServerLink(server)
            states.append(link.snapshot())
        return states

    def stop(self) -> None:
        """End every conversation and every process that was started for one."""
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
        with self._lock:
            links, self._links = list(self._links.values()), {}
        _end(links)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # An unreadable file changes nothing: health reports it, and the servers it named go on.
            with contextlib.suppress(SettingsError):
                self._reconcile(read_servers(self._config))
            self._woken.wait(_CONFIG_SECONDS)
            self._woken.clear()

    def _reconcile(self, servers: list[McpServer]) -> None:
        wanted = {server.id: server for server in servers}
        with self._lock:
            gone = [link for key, link in self._links.items() if wanted.get(key) != link.server]
            kept = {key: link for key, link in self._links.items() if wanted.get(key) == link.server}
            new = {key: ServerLink(server) for key, server in wanted.items() if key not in kept}
            self._links = {key: kept.get(key) or new[key] for key in wanted}
            for link in new.values():
                link.start()
        _end(gone)


def _end(links: list[ServerLink]) -> None:
    for link in links:
        link.ask_to_stop()
    deadline = time.monotonic() + _STOP_SECONDS
    for link in links:
        link.join(max(deadline - time.monotonic(), 0.0))
