"""What every request passes and every answer has: loopback names, origins, signatures, a body of limited size, JSON."""

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
    "check_signature",
    "failure",
    "json_object",
    "read_body",
    "require_proof",
    "signature_of",
    "success",
]

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
MAX_BODY_BYTES = 64 * 1024
_BODY_SECONDS = 10.0


class RequestGuard:
    """Gives every request its correlation id, and keeps web pages of other origins out.

    Loopback keeps other machines out, not the browser on this one: any page it shows could post here, or point a name
    of its own at 127.0.0.1 and read the answers.
    """

    def __init__(self, app: ASGIApp, *, only_loopback: bool, open_below: str) -> None:
        self._app = app
        self._only_loopback = only_loopback
        self._open_below = open_below  # what is asked for through a proxy, under a public name, with a proof of its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not come in, hand every other one on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-correlation-id", "")
        # The caller's id if it is a sane token (it ends up in the log), else a new one.
        scope.setdefault("state", {})["correlation_id"] = (
            offered if _CORRELATION_ID.match(offered) else uuid.uuid4().hex
        )
        refusal = self._refusal(headers, str(scope["path"]).startswith(self._open_below))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await failure(Request(scope), 403, "forbidden", refusal)(scope, receive, send)

    def _refusal(self, headers: Headers, is_open: bool) -> str | None:
        host = headers.get("host", "")
        if self._only_loopback and not is_open:
            try:
                name = urlsplit(f"//{host}").hostname or ""
            except ValueError:
                name = ""
            if not is_loopback(name):
                return "this gateway answers on loopback names only"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "pages of another origin may not call this gateway"
        return None


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body; raises HTTPException: 413 when it is too large, 408 when too slow."""

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
        raise HTTPException(408, "the body did not arrive in time") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client went away") from None


def check_signature(request: Request, body: bytes, secret: str | None, *, always: bool) -> None:
    """Check ``X-Signature: sha256=HMAC-SHA256(secret, body)``; raises HTTPException.

    With a secret, a request must be signed when ``always`` is set or it comes from another machine, and a signature
    that is there must be right: 401 without, 403 for a wrong one. Without a secret only this machine is served; others
    get 503.
    """
    is_local = request.client is not None and is_loopback(request.client.host)
    if not secret:
        if not is_local:
            raise HTTPException(503, "API_SECRET is not set; only loopback is served without it")
        return
    offered = request.headers.get("x-signature")
    if offered is None:
        if always or not is_local:
            raise HTTPException(401, "the X-Signature header is missing")
        return
    require_proof("X-Signature", offered, signature_of(body, secret), "API_SECRET")


def signature_of(body: bytes, secret: str) -> str:
    """Return what a signature header must say: ``sha256=`` and the HMAC-SHA256 of the raw body in hex."""
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def require_proof(name: str, offered: str | None, expected: str | None, variable: str) -> None:
    """Compare what a request offers as ``name`` with what is expected, in constant time.

    Raises HTTPException: 503 when nothing is expected because ``variable`` is not set, 401 without an offer, 403 for a
    wrong one.
    """
    if expected is None:
        raise HTTPException(503, f"{variable} is not set; nothing is taken without it")
    if offered is None:
        raise HTTPException(401, f"{name} is missing")
    # As bytes: compare_digest refuses text that is not ASCII.
    if not hmac.compare_digest(offered.encode("utf-8", "replace"), os.fsencode(expected)):
        raise HTTPException(403, f"{name} is wrong")


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; raises HTTPException 400 for anything else."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return value


def success(request: Request, data: dict[str, Any], status: int = 200) -> JSONResponse:
    """Return the answer to a request that went well."""
    answer = {"ok": True, "data": data, "correlationId": _correlation(request), "timestamp": timestamp()}
    return JSONResponse(answer, status, headers={"Cache-Control": "no-store"})


def failure(
    request: Request, status: int, code: str, message: str, /, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """Return a refusal or a fault: a stable ``code`` for programs and a sentence for people."""
    answer = {
        "ok": False,
        "error": {"code": code, "message": message},
        **more,
        "correlationId": _correlation(request),
        "timestamp": timestamp(),
    }
    return JSONResponse(answer, status, headers=headers)


def _correlation(request: Request) -> str:
    return str(getattr(request.state, "correlation_id", ""))
