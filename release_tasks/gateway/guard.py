"""The first check of every request: host name and origin, before any endpoint runs."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from release_tasks.gateway.http import failure
from release_tasks.gateway.network import names_loopback

__all__ = ["RequestGuard"]

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class RequestGuard:
    """Middleware that gives every request a correlation id and rejects requests from web pages of other origins.

    Listening on loopback does not stop a browser on this machine: any web page could send a POST request to the
    gateway, or read its responses by DNS rebinding (its own host name resolves to 127.0.0.1).
    """

    def __init__(self, app: ASGIApp, *, only_loopback: bool, public_prefix: str) -> None:
        self._app = app
        self._only_loopback = only_loopback
        # Paths with this prefix are requested through a proxy under a public name, and check their own credentials.
        self._public_prefix = public_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a forbidden request with 403 and forward every other request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        received_id = headers.get("x-correlation-id", "")
        # The caller's id if it is a valid token, because it appears in the log; else a new id.
        scope.setdefault("state", {})["correlation_id"] = (
            received_id if _CORRELATION_ID.match(received_id) else uuid.uuid4().hex
        )
        refusal = self._refusal(headers, is_public=str(scope["path"]).startswith(self._public_prefix))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await failure(Request(scope), 403, "forbidden", refusal)(scope, receive, send)

    def _refusal(self, headers: Headers, *, is_public: bool) -> str | None:
        host = headers.get("host", "")
        if self._only_loopback and not is_public and not names_loopback(host):
            return "this gateway accepts only loopback host names"
        origin = headers.get("origin")
        if origin is not None:
            scheme, _, name = origin.lower().partition("://")
            if scheme not in ("http", "https") or not name or name != host.lower():
                return "this gateway rejects requests from other origins"
        return None
