"""The reliability endpoint: counts of a service's queues and callbacks, compared with the limits.

A response may contain message texts and pairing codes, so only the counts and the HTTP status are stored.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from release_tasks.config.schema import LimitsConfig, ReliabilityConfig
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.records import Pressure, ReliabilityReport
from release_tasks.service.http import fetch
from release_tasks.service.request import Request, request_for, shown_endpoint
from release_tasks.service.response import HttpResponse, ProbeError, RepeatedKey, parse_json

__all__ = ["fetch_reliability", "over_limits"]

_SIGNATURE = "X-Signature"
_BODY = b"{}"  # some services fail on a signed request without a body


def fetch_reliability(
    config: ReliabilityConfig,
    *,
    before: Pressure | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ReliabilityReport | None:
    """Send one request and compare the counts with the limits.

    Rejected callbacks are counted since ``before``. Returns None when no endpoint is configured. A failure is in the
    report; nothing is raised.
    """
    url = config.url
    if url is None:
        return None
    shown = shown_endpoint(url, config, environ)
    try:
        response = fetch(_request(url, config, environ))
    except ProbeError as error:
        is_asked = error.kind != "invalid"
        return ReliabilityReport(status="unreachable" if is_asked else "unknown", url=shown, detail=error.message)
    pressure, problem = _read(response)
    if pressure is None:
        unset = [name for name in (config.hmac_secret_env, config.bearer_token_env) if name and not environ.get(name)]
        hint = f"; not set in this environment: {', '.join(unset)}" if unset else ""
        return ReliabilityReport(status="unknown", url=shown, detail=f"{problem}{hint}", http_status=response.status)
    over = over_limits(pressure, config.limits, before)
    return ReliabilityReport(
        status="pressure" if over else "ok",
        url=shown,
        detail="; ".join(over) or "within its limits",
        http_status=response.status,
        pressure=pressure,
        over=over,
    )


def over_limits(pressure: Pressure, limits: LimitsConfig, before: Pressure | None = None) -> list[str]:
    """Describe each count over its limit; rejected callbacks are counted since ``before``, if known."""
    rejected, since = pressure.rejected_callbacks, ""
    if rejected is not None and before is not None and before.rejected_callbacks is not None:
        # Fewer than before: a restore brought an older count back, so the whole count is compared with the limit.
        is_continued = rejected >= before.rejected_callbacks
        rejected = rejected - before.rejected_callbacks if is_continued else rejected
        since = " since the release was prepared" if is_continued else ""
    counts = (
        (pressure.queued, limits.queued, "queued messages"),
        (pressure.failed, limits.failed, "failed messages"),
        (pressure.dead_letters, limits.dead_letters, "dead letters"),
        (rejected, limits.rejected_callbacks, f"rejected callbacks{since}"),
    )
    return [f"{count} {label} (limit {limit})" for count, limit, label in counts if count is not None and count > limit]


def _request(url: str, config: ReliabilityConfig, environ: Mapping[str, str]) -> Request:
    """Return the request with signature and token; each is omitted when its environment variable is not set."""
    request = request_for(url, config, config.timeout, environ=environ)
    headers, body = {"Accept": "application/json"}, request.body
    secret = environ.get(config.hmac_secret_env or "")
    if secret:
        body = _BODY if body is None else body
        headers["Content-Type"] = "application/json"
        headers[_SIGNATURE] = "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()
    token = environ.get(config.bearer_token_env or "")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return evolve(request, headers={**headers, **request.headers}, body=body)


def _read(response: HttpResponse) -> tuple[Pressure | None, str]:
    if response.status in (401, 403):
        return None, f"HTTP {response.status}: the service rejected the signature or token"
    if response.status != 200:
        return None, f"HTTP {response.status}"
    try:
        document = parse_json(response.body.decode("utf-8-sig"))
    except RepeatedKey as error:
        return None, f"the response has the key {excerpt_line(str(error))!r} twice, so it cannot be read"
    except (ValueError, RecursionError):
        return None, "the response is not JSON"
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict) or document.get("ok") is False:
        return None, "unknown response format"
    queue, callbacks = (data[name] if isinstance(data.get(name), dict) else None for name in ("queue", "callbacks"))
    if queue is None and callbacks is None:
        return None, "the response contains neither queue nor callbacks"
    undelivered = [_count(queue, "totalQueued"), _count(queue, "totalDispatching")]
    pressure = Pressure(
        queued=None if undelivered == [None, None] else sum(count or 0 for count in undelivered),
        failed=_count(queue, "totalFailed"),
        dead_letters=_count(queue, "totalDeadLetters"),
        rejected_callbacks=_count(callbacks, "totalRejected"),
    )
    return (None, "the response contains no counts") if pressure == Pressure() else (pressure, "")


def _count(section: dict[str, Any] | None, name: str) -> int | None:
    count = section.get(name) if section is not None else None
    is_count = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 63
    return count if is_count else None
