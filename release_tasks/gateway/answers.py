"""The shape of every JSON answer: ``ok``, ``data`` or ``error``, correlation id and time."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timezone
from typing import Any

__all__ = ["correlation_id", "failure", "success", "timestamp"]

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def timestamp() -> str:
    """Return the current time as RFC 3339 in UTC with milliseconds."""
    moment = datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def correlation_id(offered: str | None) -> str:
    """Return the caller's id if it is a sane token (it ends up in the log), else a new one."""
    if offered is not None and _CORRELATION_ID.match(offered):
        return offered
    return uuid.uuid4().hex


def success(data: Any, correlation: str) -> dict[str, Any]:
    """Wrap ``data`` as an answer that went well."""
    return {"ok": True, "data": data, "correlationId": correlation, "timestamp": timestamp()}


def failure(code: str, message: str, correlation: str, **more: Any) -> dict[str, Any]:
    """Wrap a refusal or a fault: a stable ``code`` for programs and a sentence for people."""
    return {
        "ok": False,
        "error": {"code": code, "message": message},
        **more,
        "correlationId": correlation,
        "timestamp": timestamp(),
    }
