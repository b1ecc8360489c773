"""Checks of every request (host name, origin, signature, body size) and the JSON form of every response."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from release_tasks.core.clock import timestamp
from release_tasks.gateway.network import is_loopback

__all__ = [
    "RequestGuard",
    "body_signature",
    "check_signature",
    "failure",
    "json_object",
    "read_body",
    "require_credential",
    "success",
]

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
MAX_BODY_BYTES = 64 * 1024
_BODY_SECONDS = 10.0


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
        if self._only_loopback and not is_public:
            try:
                name = urlsplit(f"//{host}").hostname or ""
            except ValueError:
                name = ""
            if not is_loopback(name):
                return "this gateway accepts only loopback host names"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "this gateway rejects requests from other origins"
        return None


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the request body; raises HTTPException 413 if it is too large, 408 if it is too slow."""

    async def collect() -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes")
        return bytes(body)

    try:
        return await asyncio.wait_for(collect(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, "timeout while reading the body") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client disconnected") from None


def check_signature(request: Request, body: bytes, secret: str | None, *, always: bool) -> None:
    """Check ``X-Signature: sha256=HMAC-SHA256(secret, body)``; raises HTTPException.

    With a secret, a request must be signed if ``always`` is set or if it comes from another machine: 401 without a
    signature. A signature is always checked, also if it is optional: 403 if it is invalid. Without a secret, requests
    from other machines get 503.
    """
    is_local = request.client is not None and is_loopback(request.client.host)
    if not secret:
        if not is_local:
            raise HTTPException(503, "API_SECRET is not set; without it only loopback requests are accepted")
        return
    received = request.headers.get("x-signature")
    if received is None:
        if always or not is_local:
            raise HTTPException(401, "the X-Signature header is missing")
        return
    require_credential("X-Signature", received, body_signature(body, secret), "API_SECRET")


def body_signature(body: bytes, secret: str) -> str:
    """Return the expected signature header: ``sha256=`` and the HMAC-SHA256 of the raw body in hex."""
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def require_credential(name: str, received: str | None, expected: str | None, variable: str) -> None:
    """Compare the received credential ``name`` with the expected value in constant time.

    Raises HTTPException: 503 if ``expected`` is None because ``variable`` is not set, 401 if the credential is missing,
    403 if it is invalid.
    """
    if expected is None:
        raise HTTPException(503, f"{variable} is not set; without it all requests are rejected")
    if received is None:
        raise HTTPException(401, f"{name} is missing")
    # As bytes: compare_digest rejects non-ASCII text.
    if not hmac.compare_digest(received.encode("utf-8", "replace"), os.fsencode(expected)):
        raise HTTPException(403, f"{name} is invalid")


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body as a JSON object; raises HTTPException 400 if it is something else."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return value


def success(request: Request, data: dict[str, Any], status: int = 200) -> JSONResponse:
    """Return the response to a successful request."""
    response = {"ok": True, "data": data, "correlationId": _correlation(request), "timestamp": timestamp()}
    return JSONResponse(response, status, headers={"Cache-Control": "no-store"})


def failure(
    request: Request, status: int, code: str, message: str, /, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """Return an error response: a stable ``code`` for programs and a message for people."""
    response = {
        "ok": False,
        "error": {"code": code, "message": message},
        **more,
        "correlationId": _correlation(request),
        "timestamp": timestamp(),
    }
    return JSONResponse(response, status, headers=headers)


def _correlation(request: Request) -> str:
    return str(getattr(request.state, "correlation_id", ""))
