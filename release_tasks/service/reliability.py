"""What a service reports about its queues and callbacks: only the numbers of its answer.

An answer may hold texts of messages and pairing codes, so nothing of it but counts and the HTTP status is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from release_tasks.config.schema import LimitsConfig, ReliabilityConfig
from release_tasks.core.records import Pressure, ReliabilityReport
from release_tasks.core.redact import Redactor
from release_tasks.service.answer import Answer, ProbeError
from release_tasks.service.http import fetch

__all__ = ["ask_reliability", "over_limits"]

_SIGNATURE = "X-Signature"
_BODY = b"{}"  # some services fail on a signed request that has no body


def ask_reliability(
    config: ReliabilityConfig,
    *,
    before: Pressure | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ReliabilityReport | None:
    """Ask once and compare with the limits, rejected callbacks with what they were ``before``.

    Returns None when no endpoint is configured. What goes wrong is in the report; nothing is raised.
    """
    url = config.url
    if url is None:
        return None
    shown = Redactor.from_environment(environ).redact_text(url)
    headers = _headers(config, environ)
    try:
        answer = fetch(url, timeout=config.timeout, headers=headers, body=_BODY if _SIGNATURE in headers else None)
    except ProbeError as error:
        return ReliabilityReport(status="unreachable", url=shown, detail=error.message.replace(url, shown))
    pressure, problem = _read(answer)
    if pressure is None:
        unset = [name for name in (config.hmac_secret_env, config.bearer_token_env) if name and not environ.get(name)]
        about = f"; not set in this environment: {', '.join(unset)}" if unset else ""
        return ReliabilityReport(status="unknown", url=shown, detail=f"{problem}{about}", http_status=answer.status)
    over = over_limits(pressure, config.limits, before)
    return ReliabilityReport(
        status="pressure" if over else "ok",
        url=shown,
        detail="; ".join(over) or "within its limits",
        http_status=answer.status,
        pressure=pressure,
        over=over,
    )


def over_limits(pressure: Pressure, limits: LimitsConfig, before: Pressure | None = None) -> list[str]:
    """Return a few words for each count over its limit; rejected callbacks count since ``before``, if that is known."""
    rejected, since = pressure.rejected_callbacks, ""
    if rejected is not None and before is not None and before.rejected_callbacks is not None:
        # Fewer than before: a restore brought older counts back, and all of them are new to it.
        is_later = rejected >= before.rejected_callbacks
        rejected = rejected - before.rejected_callbacks if is_later else rejected
        since = " since the release was prepared" if is_later else ""
    counts = (
        (pressure.queued, limits.queued, "messages waiting or on their way"),
        (pressure.failed, limits.failed, "messages failed"),
        (pressure.dead_letters, limits.dead_letters, "messages given up"),
        (rejected, limits.rejected_callbacks, f"callbacks rejected{since}"),
    )
    return [f"{count} {what} (limit {limit})" for count, limit, what in counts if count is not None and count > limit]


def _headers(config: ReliabilityConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of signature and token; a request is also sent without them, when a secret is not set."""
    headers = {"Accept": "application/json"}
    secret = environ.get(config.hmac_secret_env or "")
    if secret:
        headers["Content-Type"] = "application/json"
        headers[_SIGNATURE] = "sha256=" + hmac.new(os.fsencode(secret), _BODY, hashlib.sha256).hexdigest()
    token = environ.get(config.bearer_token_env or "")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _read(answer: Answer) -> tuple[Pressure | None, str]:
    if answer.status in (401, 403):
        return None, f"HTTP {answer.status}: it does not accept our signature or token"
    if answer.status != 200:
        return None, f"HTTP {answer.status}"
    try:
        document = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None, "the answer is not JSON"
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict) or document.get("ok") is False:
        return None, "the answer has no known form"
    queue, callbacks = (data[name] if isinstance(data.get(name), dict) else None for name in ("queue", "callbacks"))
    if queue is None and callbacks is None:
        return None, "the answer names neither queue nor callbacks"
    waiting = [_count(queue, "totalQueued"), _count(queue, "totalDispatching")]
    pressure = Pressure(
        queued=None if waiting == [None, None] else sum(count or 0 for count in waiting),
        failed=_count(queue, "totalFailed"),
        dead_letters=_count(queue, "totalDeadLetters"),
        rejected_callbacks=_count(callbacks, "totalRejected"),
    )
    return (None, "the answer holds no counts") if pressure == Pressure() else (pressure, "")


def _count(section: dict[str, Any] | None, name: str) -> int | None:
    count = section.get(name) if section is not None else None
    is_count = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 63
    return count if is_count else None
