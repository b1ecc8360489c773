"""Hooks of schemathesis: every request has the credentials of all endpoints, computed from its body."""

from __future__ import annotations

import hashlib
import hmac
import os

import schemathesis
from requests import PreparedRequest
from requests.auth import AuthBase

__all__ = ["Signed"]


class Signed(AuthBase):
    """Signs a request as a caller, as Telegram and as Meta."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body or b""
        content = body.encode() if isinstance(body, str) else bytes(body)
        for header, variable in (("X-Signature", "API_SECRET"), ("X-Hub-Signature-256", "WHATSAPP_APP_SECRET")):
            digest = hmac.new(os.environ[variable].encode(), content, hashlib.sha256).hexdigest()
            request.headers[header] = f"sha256={digest}"
        request.headers["X-Telegram-Bot-Api-Secret-Token"] = os.environ["TELEGRAM_WEBHOOK_SECRET"]
        return request


schemathesis.auth.set_from_requests(Signed())  # type: ignore[attr-defined]  # the annotation hides it
