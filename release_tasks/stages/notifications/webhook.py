"""Delivery of a notification to a webhook: a POST of the document, signed over its exact bytes."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from urllib.parse import urlsplit

from release_tasks.core.redact import Redactor
from release_tasks.core.version import __version__
from release_tasks.service.http import fetch
from release_tasks.service.request import Request
from release_tasks.service.response import ProbeError
from release_tasks.stages.notifications.notification import SendAttempt

__all__ = ["SIGNATURE", "notify_webhook", "shown_origin", "signature_of"]

SIGNATURE = "X-Signature"

_MAX_ANSWER = 4096  # bytes; the body of an answer is read to finish the connection, and then dropped
_RETRIABLE = {408, 425, 429}


def notify_webhook(
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
    """POST ``body`` once; delivered when the status of the answer is 2xx within ``timeout`` seconds.

    ``notice_id`` and ``time`` are repeated in headers. The signature covers the body only.
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
        request = Request(
            url=url,
            shown=shown_origin(url),
            timeout=timeout,
            method="POST",
            headers=headers,
            body=body,
            max_bytes=_MAX_ANSWER,
        )
        answer = fetch(request, cancelled=cancelled)
    except ProbeError as error:
        final = {
            "redirect": f"{shown_origin(url)} redirects to another URL; redirects are not followed",
            "invalid": "the webhook's URL is not an http:// or https:// URL",
        }
        detail = final.get(error.kind) or error.message.rstrip(".")
        return SendAttempt(is_delivered=False, detail=redactor.redact_text(detail), is_final=error.kind in final)
    is_delivered = 200 <= answer.status < 300
    is_final = not is_delivered and answer.status < 500 and answer.status not in _RETRIABLE
    detail = f"{shown_origin(url)} answered HTTP {answer.status}"
    return SendAttempt(is_delivered=is_delivered, detail=detail, is_final=is_final)


def signature_of(body: bytes, secret: str) -> str:
    """Return the value of the ``X-Signature`` header for ``body``."""
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def shown_origin(url: str) -> str:
    """Return scheme, host and port of a URL. Its path must not be shown: in a chat's webhook the path is a secret."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        host = None
    return f"{parts.scheme}://{host}{port}" if host else "the webhook's URL"
