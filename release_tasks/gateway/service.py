"""The HTTP service of the gateway: an ASGI app for the message store, the worker and the MCP servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from release_tasks.config.schema import PairingConfig
from release_tasks.gateway.bodies import Bodies
from release_tasks.gateway.dispatcher import Worker
from release_tasks.gateway.errors import SettingsError, StoreError
from release_tasks.gateway.guard import RequestGuard
from release_tasks.gateway.health import Parts, examine
from release_tasks.gateway.http import failure, json_object, read_signed, success
from release_tasks.gateway.mcp import McpMonitor
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import Secrets, last_release, read_settings
from release_tasks.gateway.store import MessageStore
from release_tasks.gateway.webhooks import INBOUND, LOCK_SECONDS, REPLIED, WEBHOOKS, Webhooks
from release_tasks.pairing.policy import Pairing

__all__ = ["create_app"]

_T = TypeVar("_T")
_LOG = logging.getLogger("gateway.service")
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MAX_TO, _MAX_TEXT, _MAX_KEY, _MAX_LIMIT = 256, 16_384, 200, 500
_MAX_WRITERS = 8  # writes to the database are serialised anyway
_MAX_LISTS = 2  # a list may have several MiB, and health uses the same connection to the database
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    paths: GatewayPaths,
    *,
    pairing: PairingConfig | None = None,
    release_root: Path | None = None,
    only_loopback: bool = True,
    is_rehearsal: bool = False,
) -> Starlette:
    """Return the app of a gateway; its lifespan starts and stops the worker and the MCP servers.

    ``pairing`` defaults to stores in the root folder of the gateway. The page shows ``manifests/latest.json`` in
    ``release_root``. All secrets come from the environment. In a rehearsal the gateway has no external effects: it
    delivers no messages and starts no MCP servers.
    """
    pairing = pairing or PairingConfig(credentials=paths.credentials)
    parts = Parts(
        paths,
        MessageStore(paths.database),
        Worker(paths),
        McpMonitor(paths.mcp_servers),
        Pairing(pairing, lock_wait=LOCK_SECONDS),
        pairing.credentials,
        Secrets(),
        is_rehearsal,
    )
    bodies = Bodies()
    endpoints = _Endpoints(parts, release_root, bodies)
    webhooks = Webhooks(parts, endpoints.write, bodies)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if not is_rehearsal:
            parts.worker.start()
            parts.mcp.start()
        try:
            yield
        finally:
            # Not the thread pool of the requests: all its threads may wait for the database.
            await asyncio.to_thread(_shut_down, parts)

    routes = [
        Route("/", endpoints.page),
        Route("/health", endpoints.health),
        Route("/health/live", endpoints.live),
        Route("/health/ready", endpoints.ready),
        Route("/reliability", endpoints.reliability),
        Route("/messages", endpoints.messages, methods=["GET", "POST"]),
        Route("/callback", endpoints.callback, methods=["POST"]),
        Route("/release/last", endpoints.release),
    ]
    app = Starlette(
        routes=[*routes, *webhooks.routes()],
        middleware=[Middleware(RequestGuard, only_loopback=only_loopback, public_prefix=WEBHOOKS)],
        exception_handlers={HTTPException: _http_error, StoreError: _store_error, Exception: _unexpected_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would repeat the Host header of the request
    return app


def _shut_down(parts: Parts) -> None:
    # In parallel: each has its own grace period, and a supervisor waits for both.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(parts.mcp.stop)
        # The worker stops before the store is closed: the last process that closes the database runs the checkpoint of
        # the WAL, a killed worker does not, and with two simultaneous closes neither is the last.
        parts.worker.stop()
        if not parts.store.close(timeout=0.5):
            _LOG.warning("the database is still in use; its WAL file stays and is used at the next start")


class _Endpoints:
    """One method per route."""

    def __init__(self, parts: Parts, release_root: Path | None, bodies: Bodies) -> None:
        self._parts = parts
        self._release_root = release_root
        self._bodies = bodies
        self._secret = parts.secrets.api
        self._limiters: dict[str, anyio.CapacityLimiter] = {}  # they belong to the event loop, which runs later
        self._health_requests = 0

    async def write(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function that may wait for the write lock, in threads that health does not use."""
        return await self._run("write", _MAX_WRITERS, function, *arguments)

    async def _run(self, work: str, at_once: int, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in a thread; at most ``at_once`` functions of this kind of work run at the same time."""
        limiter = self._limiters.get(work) or self._limiters.setdefault(work, anyio.CapacityLimiter(at_once))
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)

    async def page(self, request: Request) -> Response:
        path = self._parts.paths.gui
        try:
            # Checked first: opening a FIFO would block forever.
            page = await run_in_threadpool(lambda: path.read_bytes() if path.is_file() else None)
        except OSError:
            page = None
        if page is None:
            raise HTTPException(404, "the page gui/index.html is missing")
        return Response(page, media_type="text/html", headers=_PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        # The faults that ``breaking`` injects into the settings.
        with contextlib.suppress(SettingsError):  # reported by ``examine``
            settings = await run_in_threadpool(read_settings, self._parts.paths.settings)
            await asyncio.sleep(settings.slow)
            self._health_requests += 1
            if settings.is_flapping and self._health_requests % 2:
                raise HTTPException(503, "flapping: every second health response fails")
        data = await run_in_threadpool(examine, self._parts)
        if data["status"] == "failing":
            return failure(request, 503, "failing", "; ".join(data["problems"]), data=data)
        return success(request, data)

    async def live(self, request: Request) -> Response:
        return success(request, {"status": "alive", "pid": os.getpid()})

    async def ready(self, request: Request) -> Response:
        try:
            await run_in_threadpool(self._parts.store.check)
        except StoreError as error:
            reason = f"database: {error.message}"
            return failure(request, 503, "not_ready", error.message, status="not_ready", reason=reason)
        return success(request, {"status": "ready"})

    async def reliability(self, request: Request) -> Response:
        await read_signed(request, self._bodies, self._secret)
        store = self._parts.store
        queue = await run_in_threadpool(store.delivery_totals)
        callbacks = await run_in_threadpool(store.callback_totals)
        totals = {
            "queue": {
                "totalQueued": queue["queued"],
                "totalDispatching": queue["dispatching"],
                "totalSent": queue["sent"],
                "totalFailed": queue["failed"],
                "totalDeadLetters": queue["dead"],
            },
            "callbacks": {
                "totalAccepted": callbacks["accepted"],
                "totalDuplicate": callbacks["duplicate"],
                "totalRejected": callbacks["rejected"],
            },
        }
        return success(request, totals)

    async def messages(self, request: Request) -> Response:
        # One route for both methods: with two, a 405 would name the methods of the first one only.
        return await (self._enqueue if request.method == "POST" else self._list)(request)

    async def _list(self, request: Request) -> Response:
        await read_signed(request, self._bodies, self._secret)
        limit = request.query_params.get("limit", "50")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= _MAX_LIMIT):
            raise HTTPException(400, f"limit must be a number from 1 to {_MAX_LIMIT}")
        messages = await self._run("list", _MAX_LISTS, self._parts.store.messages, int(limit))
        return success(request, {"messages": messages})

    async def _enqueue(self, request: Request) -> Response:
        message = json_object(await read_signed(request, self._bodies, self._secret))
        channel = _text(message, "channel", 64)
        if not _CHANNEL.match(channel):
            raise HTTPException(400, "channel must consist of letters, digits, '.', '_' or '-'")
        if channel.startswith(INBOUND):
            raise HTTPException(400, f"channels that start with {INBOUND!r} are reserved for the webhooks")
        to, text = _text(message, "to", _MAX_TO), _text(message, "text", _MAX_TEXT)
        message_id = await self.write(self._parts.store.add_message, channel, to, text)
        self._parts.worker.wake()
        return success(request, {"id": message_id, "state": "queued"}, 202)

    async def callback(self, request: Request) -> Response:
        store = self._parts.store
        try:
            body = await read_signed(request, self._bodies, self._secret)
            callback, header = json_object(body), request.headers.get("idempotency-key")
            if header is not None and "key" in callback and callback["key"] != header:
                raise HTTPException(400, "the Idempotency-Key header and the body's key differ")
            key = _text({"key": header} if header is not None else callback, "key", _MAX_KEY)
            if key.startswith((INBOUND, REPLIED)):
                raise HTTPException(
                    400, f"keys that start with {INBOUND!r} or {REPLIED!r} are reserved for the webhooks"
                )
        except HTTPException:
            await self.write(store.count_rejected_callback)
            raise
        outcome = await self.write(store.accept_callback, key, body)
        if outcome == "rejected":
            raise HTTPException(409, "this key was already used for a callback with other content")
        is_duplicate = outcome == "duplicate"
        return success(request, {"key": key, "duplicate": is_duplicate}, 200 if is_duplicate else 202)

    async def release(self, request: Request) -> Response:
        try:
            release = await run_in_threadpool(last_release, self._release_root)
        except SettingsError as error:
            return success(request, {"release": None, "detail": error.message})
        return success(request, {"release": release, "detail": None if release else "none yet"})


def _text(message: dict[str, Any], key: str, max_length: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value.strip():
        raise HTTPException(400, f"{key} must be a non-empty string")
    if len(value) > max_length:
        raise HTTPException(400, f"{key} is longer than {max_length} characters")
    try:
        value.encode()
    except UnicodeEncodeError:  # an unpaired surrogate is valid JSON, but SQLite cannot store it
        raise HTTPException(400, f"{key} is not valid Unicode text") from None
    return value


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {401: "unauthorized", 403: "forbidden", 404: "not_found"}.get(error.status_code, "refused")
    return failure(request, error.status_code, code, error.detail, headers=error.headers)


async def _store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    _LOG.error("%s %s: %s", request.state.correlation_id, request.url.path, error.message)
    return failure(request, 503, "database", error.message)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this response, so the log of the server contains the traceback.
    _LOG.error("%s %s: %s", getattr(request.state, "correlation_id", ""), request.url.path, type(error).__name__)
    return failure(request, 500, "internal", "unexpected error; search the log for this correlation id")
