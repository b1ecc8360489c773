"""The signature of a request, and the JSON form of every response."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from release_tasks.config.gateway import API_SECRET
from release_tasks.core.clock import timestamp
from release_tasks.gateway.bodies import Bodies
from release_tasks.gateway.network import is_loopback, names_loopback

__all__ = [
    "body_signature",
    "failure",
    "json_object",
    "read_signed",
    "refusal",
    "require_credential",
    "require_signature",
    "success",
]

MAX_BODY_BYTES = 64 * 1024
SIGNATURE = "X-Signature"
_SIGNATURE_FORM = re.compile(r"sha256=[0-9a-f]{64}\Z")
# A proxy adds at least one of these; a program that connects directly has no reason to.
_PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


async def read_signed(request: Request, bodies: Bodies, secret: str | None) -> bytes:
    """Return the body of a request that reads or changes data of the gateway; raises HTTPException.

    With a secret, every request must be signed: ``X-Signature: sha256=HMAC-SHA256(secret, body)``. A request without a
    signature gets 401, one with an invalid signature 403. A signature that cannot be valid is rejected before the body
    is read. Without a secret, only programs on this machine are accepted.
    """
    received = request.headers.get(SIGNATURE)
    if not secret:
        _require_this_machine(request)
        return await bodies.read(request, MAX_BODY_BYTES)
    require_signature(SIGNATURE, received, secret, API_SECRET)
    body = await bodies.read(request, MAX_BODY_BYTES)
    require_credential(SIGNATURE, received, body_signature(body, secret), API_SECRET)
    return body


def _require_this_machine(request: Request) -> None:
    # All requests of a reverse proxy on this machine come from a loopback address.
    is_passed_on = any(name in request.headers for name in _PROXY_HEADERS)
    if request.client is None or not is_loopback(request.client.host) or is_passed_on:
        raise HTTPException(503, "API_SECRET is not set; without it only requests from this machine are accepted")
    # Nor is a web page a program on this machine: the name of its host may resolve to a loopback address.
    if not names_loopback(request.headers.get("host", "")):
        raise HTTPException(403, "without API_SECRET only requests with a loopback host name are accepted")


def body_signature(body: bytes, secret: str) -> str:
    """Return the expected signature header: ``sha256=`` and the HMAC-SHA256 of the raw body in hex."""
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def require_signature(name: str, received: str | None, secret: str | None, variable: str) -> str:
    """Return the secret for checking a signature; raises HTTPException if no body could make the signature valid.

    503 if ``secret`` is None because ``variable`` is not set, 401 without a signature, 403 if it has another form.
    """
    if secret is None:
        raise HTTPException(503, f"{variable} is not set; without it all requests are rejected")
    if received is None:
        raise HTTPException(401, f"{name} is missing")
    if not _SIGNATURE_FORM.match(received):
        raise HTTPException(403, f"{name} is invalid")
    return secret


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
    return JSONResponse(_envelope(code, message, _correlation(request), **more), status, headers=headers)


def refusal(code: str, message: str) -> bytes:
    """Return the body of an error response to an incomplete request, which has no correlation id."""
    return json.dumps(_envelope(code, message, uuid.uuid4().hex)).encode()


def _envelope(code: str, message: str, correlation_id: str, **more: Any) -> dict[str, Any]:
    return {
        "ok": False,
        "error": {"code": code, "message": message},
        **more,
        "correlationId": correlation_id,
        "timestamp": timestamp(),
    }


def _correlation(request: Request) -> str:
    return str(getattr(request.state, "correlation_id", ""))
