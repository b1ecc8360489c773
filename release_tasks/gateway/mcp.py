"""The state of each configured MCP server, updated by a background thread per server.

A health request reads the last known state and never waits for an MCP server.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from release_tasks.config.gateway import child_environment
from release_tasks.config.mcp_launch import McpHost, McpLaunch, launch_of
from release_tasks.config.mcp_servers import McpServer, read_mcp_file
from release_tasks.core.canonical import InvalidDocument
from release_tasks.gateway.errors import McpError, SettingsError
from release_tasks.gateway.mcp_session import McpSession

__all__ = ["CircuitBreaker", "McpMonitor", "ServerLink", "read_servers"]

_LOG = logging.getLogger("gateway.mcp")
_HANDSHAKE_SECONDS = 10.0
_REFRESH_SECONDS = 30.0
_CONFIG_SECONDS = 1.0
_FAILURES_TO_OPEN = 3
_COOLDOWN_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 1.2
_NOT_STARTED = "has no command: this gateway starts only MCP servers over stdio"


def read_servers(path: Path) -> list[McpServer]:
    """Return the servers in the configuration file ``path``; raises SettingsError.

    An enabled server with an entry that no host accepts is refused. Whether a server can be started is its own state.
    """
    try:
        file = read_mcp_file(path, path.name, _project())
    except InvalidDocument as error:
        raise SettingsError(str(error), is_missing=not path.exists()) from error
    problems = file.problems + [
        f"{path.name}: server {server.id!r} {problem}"
        for server in file.servers
        for problem in server.problems
        if not server.is_disabled
    ]
    if problems:
        raise SettingsError(problems[0])
    return file.servers


def _project() -> Path:
    """Return the folder in which this gateway runs, which is the project's."""
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return Path("/")


class CircuitBreaker:
    """A circuit breaker: closed while a server responds, open after consecutive failures, half-open after a cooldown.

    While it is open, no attempt is made. While it is half-open, one attempt is due or in progress.
    """

    def __init__(self, failures_to_open: int, cooldown: float) -> None:
        self._failures_to_open = failures_to_open
        self._cooldown = cooldown
        self._opened: float | None = None
        self.failures = 0

    @property
    def remaining(self) -> float:
        """Seconds until the next attempt is allowed."""
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
        """Reset the failures and close the circuit."""
        self.failures, self._opened = 0, None

    def failed(self) -> None:
        """Count a failure; enough failures open the circuit."""
        self.failures += 1
        if self.failures >= self._failures_to_open:
            self._opened = time.monotonic()


class ServerLink:
    """The thread of one server: connects, stays connected, and reconnects after a failure."""

    def __init__(self, server: McpServer, config_folder: Path) -> None:
        self.server = server
        self._config_folder = config_folder
        self._circuit = CircuitBreaker(_FAILURES_TO_OPEN, _COOLDOWN_SECONDS)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._session: McpSession | None = None
        self._tools = 0
        self._state, self._detail = self._first_state()
        self._thread = threading.Thread(target=self._run, name=f"mcp-{server.id}", daemon=True)

    def _first_state(self) -> tuple[str, str | None]:
        """Return the state and detail before the first attempt; a server without a command stays in it."""
        if self.server.is_disabled:
            return "disconnected", None
        if self.server.command is not None:
            return "connecting", None
        # A right entry of a server that runs elsewhere passes its gate too, so it must not degrade health.
        problems = launch_of(self.server, self._host()).problems
        return ("error", problems[0]) if problems else ("disconnected", _NOT_STARTED)

    def start(self) -> None:
        """Connect in the background, unless the server is disabled or has no command."""
        if self._state == "connecting":
            self._thread.start()

    def state(self) -> dict[str, Any]:
        """Return the last known state for the health response."""
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

    def request_stop(self) -> None:
        """Tell the thread to end its session; ``join`` waits for the end."""
        self._stopping.set()
        with self._lock, contextlib.suppress(OSError):
            if self._session is not None:
                self._session.cancel()

    def join(self, timeout: float) -> None:
        """Wait until the process of the server ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._run_session()
            except McpError as error:
                self._record_failure(error.message)
            except Exception:
                _LOG.exception("MCP server %s", self.server.id)
                self._record_failure("unexpected error, see the log")
            self._stopping.wait(max(self._circuit.remaining, _RETRY_SECONDS))

    def _run_session(self) -> None:
        """Connect and stay connected; raises McpError when the server does not respond."""
        if self._state != "error":
            self._state = "connecting"
        session = McpSession(self._launch())
        with self._lock:
            self._session = session
        try:
            if self._stopping.is_set():
                return  # stopped while the command was starting
            self._record_success(session.handshake(_HANDSHAKE_SECONDS))
            while not self._stopping.is_set():
                session.listen(_REFRESH_SECONDS)
                self._record_success(session.count_tools(time.monotonic() + _HANDSHAKE_SECONDS))
        finally:
            with self._lock:
                self._session = None
            session.close()

    def _host(self) -> McpHost:
        """Return the surroundings of this gateway, without its secrets."""
        return McpHost(environment=child_environment(), project=_project(), config_folder=self._config_folder)

    def _launch(self) -> McpLaunch:
        """Return how to start the server; raises McpError."""
        launch = launch_of(self.server, self._host())
        if launch.problems:
            raise McpError(launch.problems[0])
        if launch.program is None:
            raise McpError(f"needs variables that are not set: {', '.join(launch.unset)}")
        return launch

    def _record_success(self, tools: int) -> None:
        self._circuit.succeeded()
        self._state, self._tools, self._detail = "connected", tools, None

    def _record_failure(self, detail: str) -> None:
        if self._stopping.is_set():
            return
        self._circuit.failed()
        if detail != self._detail:
            _LOG.warning("MCP server %s: %s", self.server.id, detail)
        self._state, self._tools, self._detail = "error", 0, detail


class McpMonitor:
    """The links to all servers in the configuration file, which is read again every second.

    A changed entry gets a new link.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._links: dict[str, ServerLink] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mcp-monitor", daemon=True)

    def start(self) -> None:
        """Follow the configuration file in the background."""
        self._thread.start()

    def states(self, servers: list[McpServer] | None) -> list[dict[str, Any]]:
        """Return the state of each of ``servers``; None means the servers that were configured last."""
        with self._lock:
            links = dict(self._links)
        if servers is None:
            return [link.state() for link in links.values()]
        states = []
        for server in servers:
            link = links.get(server.id)
            if link is None or link.server != server:
                self._wake.set()  # the file has just changed
                link = self._link(server)
            states.append(link.state())
        return states

    def stop(self) -> None:
        """End every session and every process of an MCP server."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
        with self._lock:
            links, self._links = list(self._links.values()), {}
        _stop_all(links)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # An unreadable file changes nothing: health reports it, and the known servers stay connected.
            with contextlib.suppress(SettingsError):
                self._reconcile(read_servers(self._config))
            self._wake.wait(_CONFIG_SECONDS)
            self._wake.clear()

    def _link(self, server: McpServer) -> ServerLink:
        return ServerLink(server, self._config.parent)

    def _reconcile(self, servers: list[McpServer]) -> None:
        configured = {server.id: server for server in servers}
        with self._lock:
            removed = [link for key, link in self._links.items() if configured.get(key) != link.server]
            unchanged = {key: link for key, link in self._links.items() if configured.get(key) == link.server}
            new = {key: self._link(server) for key, server in configured.items() if key not in unchanged}
            self._links = {key: unchanged.get(key) or new[key] for key in configured}
            for link in new.values():
                link.start()
        _stop_all(removed)


def _stop_all(links: list[ServerLink]) -> None:
    for link in links:
        link.request_stop()
    deadline = time.monotonic() + _STOP_SECONDS
    for link in links:
        link.join(max(deadline - time.monotonic(), 0.0))
