"""A notice for a webhook: the document POSTed, signed over its exact bytes; of the answer only the status counts."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from urllib.parse import urlsplit

from release_tasks.core.redact import Redactor
from release_tasks.core.version import __version__
from release_tasks.service.http import fetch
from release_tasks.service.response import ProbeError
from release_tasks.stages.notifications.notification import SendAttempt

__all__ = ["SIGNATURE", "shown_origin", "signature_of", "tell_webhook"]

SIGNATURE = "X-Signature"

_MOST_ANSWER = 4096  # bytes; an answer is read so far that its connection can end, and not kept
_TRY_AGAIN = {408, 425, 429}


def tell_webhook(
    url: str,
    body: bytes,
    *,
    notice_id: str,
    time: str,
    secret: str | None,
    redactor: Redactor,
    timeout: float,
    cancelled: threading.Event,
) -> SendAttempt:
    """POST ``body`` once; it is delivered when the answer is 2xx within ``timeout`` seconds.

    ``notice_id`` and ``time`` stand in headers as they do in the body, which is what the signature covers.
    """
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"release-tasks/{__version__}",
        "X-Notice-Id": notice_id,
        "X-Notice-Time": time,
    }
    if secret is not None:
        headers[SIGNATURE] = signature_of(body, secret)
    try:
        answer = fetch(
            url, timeout=timeout, max_bytes=_MOST_ANSWER, headers=headers, method="POST", body=body, cancelled=cancelled
        )
    except ProbeError as error:
        final = {
            "redirect": f"{shown_origin(url)} redirects elsewhere, which is not followed",
            "invalid": "the webhook's URL is not an http:// or https:// URL",
        }
        detail = final.get(error.kind) or error.message.replace(url, shown_origin(url)).rstrip(".")
        return SendAttempt(is_delivered=False, detail=redactor.redact_text(detail), is_final=error.kind in final)
    is_delivered = 200 <= answer.status < 300
    is_final = not is_delivered and answer.status < 500 and answer.status not in _TRY_AGAIN
    detail = f"{shown_origin(url)} answered HTTP {answer.status}"
    return SendAttempt(is_delivered=is_delivered, detail=detail, is_final=is_final)


def signature_of(body: bytes, secret: str) -> str:
    """Return what ``X-Signature`` holds for ``body``."""
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def shown_origin(url: str) -> str:
    """Return as much of a URL as may be shown: the path of a chat's webhook is its password."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        host = None
    return f"{parts.scheme}://{host}{port}" if host else "the webhook's URL"
