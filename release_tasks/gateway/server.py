"""The HTTP server of the gateway: uvicorn, with limits for clients that are slow, silent or too many.

uvicorn limits the time between two requests, and nothing else: a client that never finishes its headers, or never reads
a response, keeps its connection. Here each step of a client has a limit, and when there are too many connections, those
that have waited longest for their client are closed. A well-behaved client finishes each step at once, so it is never
among them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from typing import Any, cast

import h11
import uvicorn
from attrs import evolve, frozen
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from release_tasks.gateway.http import refusal

__all__ = ["GatewayServer", "Limits"]

_LOG = logging.getLogger("gateway.server")
_RECEIVE_BYTES = 32 * 1024
_LARGE_RESPONSE = 256 * 1024
_QUEUED_BY_THE_KERNEL = 4096
_OPEN_FILES = 8192
_FILES_OF_THE_GATEWAY = 64  # the database, pipes to the worker and to MCP servers, the log
_SHORT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@frozen(kw_only=True)
class Limits:
    """The limits of the connections; times in seconds, sizes in bytes.

    ``headers``: from the first moment of a connection, or from the previous response, to the end of the headers.
    ``body``: for the rest of the request. ``reading``: for the client to read a response. ``unread``: the size of all
    responses that wait for their clients. ``discarded``: the rest of a request that was answered before its end.
    """

    connections: int = 4096
    accepted_at_once: int = 128
    headers: float = 10.0
    body: float = 15.0  # longer than the limit of ``Bodies``, which responds with 408
    reading: float = 30.0
    unread: int = 64 * 1024 * 1024
    discarded: int = 1024 * 1024

    @classmethod
    def of_this_process(cls) -> Limits:
        """Return limits within the number of files that this process may open, which is raised as far as necessary."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _OPEN_FILES:
            soft = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        files = max(soft - _FILES_OF_THE_GATEWAY, 15)
        full = cls()
        return evolve(
            full,
            connections=min(full.connections, files * 2 // 3),
            # The event loop accepts a few times before the first of these connections is counted.
            accepted_at_once=min(full.accepted_at_once, files // 15),
        )


class _Connection(H11Protocol, asyncio.BufferedProtocol):
    """One connection. ``since`` is the time at which its present step began."""

    limits: Limits  # set in a subclass, because uvicorn creates the connections
    # One buffer for all connections: the event loop fills it and hands it over in one step. A buffer of its own for
    # each read would be 256 KiB, and h11 keeps what a client sends ahead of time.
    _buffer = bytearray(_RECEIVE_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._discarded = 0
        self.since = self.loop.time()
        excess = len(self.server_state.connections) - self.limits.connections
        if excess > 0:
            # More than necessary, because each search goes over all connections.
            _make_room(self.server_state, connections=excess + self.limits.connections // 16)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._discarded += nbytes
            if self._discarded > self.limits.discarded:
                self.transport.abort()
                return
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def handle_events(self) -> None:
        before = self.conn.their_state
        super().handle_events()
        if self.conn.their_state is not before:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        self._discarded = 0
        if self.transport.get_write_buffer_size() > _LARGE_RESPONSE:
            _limit_unread(self.server_state, self.limits)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond to an invalid request if no response was begun, and close the connection."""
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None:  # its endpoint may still run, and must not respond after this response
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "invalid_request", msg)
        else:
            self.transport.abort()

    @property
    def step_limit(self) -> float | None:
        """The limit of the present step, in seconds; None while the gateway works and the client waits."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return self.limits.reading
        if self.conn.their_state is h11.IDLE:
            return self.limits.headers
        if self.conn.their_state is h11.SEND_BODY:
            return self.limits.body
        return None

    def end_if_overdue(self, now: float) -> None:
        """End the connection if its client exceeds the limit of its present step."""
        step_limit = self.step_limit
        if step_limit is None or now - self.since < step_limit:
            return
        has_begun_a_request = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if has_begun_a_request and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self._refuse(408, "timeout", "the headers of the request were not complete in time")
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = refusal(code, message)
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _make_room(state: ServerState, *, connections: int = 0, unread: int = 0) -> None:
    """Close the connections that have waited longest for their clients.

    Closes as many as ``connections``, and more until ``unread`` bytes of responses are dropped.
    """
    waiting = [each for each in cast("set[_Connection]", state.connections) if each.step_limit is not None]
    for each in sorted(waiting, key=lambda each: each.since):
        size = each.transport.get_write_buffer_size()
        if connections <= 0 and (unread <= 0 or not size):
            continue
        state.connections.discard(each)
        each.transport.abort()
        connections, unread = connections - 1, unread - size
    _LOG.warning("too many connections or unread responses: those that waited longest for their clients were closed")


def _limit_unread(state: ServerState, limits: Limits) -> None:
    connections = cast("set[_Connection]", state.connections)
    excess = sum(each.transport.get_write_buffer_size() for each in connections) - limits.unread
    if excess > 0:
        _make_room(state, unread=excess)


class GatewayServer(uvicorn.Server):
    """Serves one app with limits."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._limits = limits
        self._last_shortage = 0.0
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Connection", (_Connection,), {"limits": limits}),
                loop="asyncio",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # a header must not make a remote client look like loopback
                server_header=False,
                ws="none",
                lifespan="on",
                backlog=limits.accepted_at_once,
                timeout_graceful_shutdown=1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve. Asyncio accepts as many connections at once as the kernel may queue, so enlarge the queue."""
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_QUEUED_BY_THE_KERNEL)

    async def on_tick(self, counter: int) -> bool:
        """End overdue connections, once a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            connections = cast("set[_Connection]", self.server_state.connections)
            for connection in list(connections):
                connection.end_if_overdue(now)
            _limit_unread(self.server_state, self._limits)
        return await super().on_tick(counter)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error of a connection in one line: it is the doing of a client or a lack of files, not a fault."""
        error = context.get("exception")
        if not isinstance(error, OSError) or not ("transport" in context or "socket" in context):
            loop.default_exception_handler(context)
            return
        _LOG.warning("a connection failed: %s", error.strerror)
        if error.errno in _SHORT_OF_RESOURCES and loop.time() - self._last_shortage > 0.5:
            self._last_shortage = loop.time()
            _make_room(self.server_state, connections=max(self._limits.connections // 4, 1))
