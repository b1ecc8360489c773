"""The notification: a versioned document about one event of a stage, limited in size and without secrets."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Literal

from attrs import field, frozen

from release_tasks.config.schema import Settings
from release_tasks.core.audit import actor
from release_tasks.core.canonical import canonical_bytes, excerpt_line
from release_tasks.core.clock import compact, timestamp
from release_tasks.core.codec import encode
from release_tasks.core.redact import Redactor

__all__ = [
    "NOTIFICATION_VERSION",
    "ApplicationReference",
    "Delivery",
    "Notification",
    "NotificationEvent",
    "SendAttempt",
    "new_notification",
    "notification_bytes",
    "notification_redactor",
]

NOTIFICATION_VERSION = 1
NotificationEvent = Literal["prepared", "blocked", "restored", "failed", "degraded"]

_MAX_TEXT = 1000  # characters; the answer of a health endpoint or a gate may be much longer
_MAX_DIAGNOSTICS = 20


@frozen(kw_only=True)
class ApplicationReference:
    """The application of a notification; ``version`` is the released version, None when it is unknown."""

    name: str
    version: str | None = None


@frozen(kw_only=True)
class Notification:
    """A notification. ``id`` is the same in every attempt and for every receiver; ``next`` is the command to type.

    ``occasion`` is the event. ``text`` is a complete message of one sentence, for receivers that show only one text.
    """

    notice_version: int
    id: str
    time: str
    occasion: NotificationEvent
    stage: str
    status: str
    text: str
    detail: str
    application: ApplicationReference
    release_id: str | None
    snapshot_id: str | None
    next: str | None
    host: str
    actor: str
    project: str
    diagnostics: list[str] = field(factory=list)


def new_notification(
    settings: Settings,
    occasion: NotificationEvent,
    *,
    stage: str,
    status: str,
    text: str,
    detail: str,
    version: str | None = None,
    release_id: str | None = None,
    snapshot_id: str | None = None,
    next: str | None = None,
    diagnostics: list[str] | None = None,
) -> Notification:
    """Return a notification with the current time, host and user; ``text`` gets the application's name as a prefix."""
    redactor = notification_redactor(settings)

    def safe(text: str) -> str:
        return excerpt_line(redactor.redact_text(text), _MAX_TEXT)

    name = settings.release.app.name
    return Notification(
        notice_version=NOTIFICATION_VERSION,
        id=f"{compact()}-{secrets.token_hex(8)}",
        time=timestamp(),
        occasion=occasion,
        stage=stage,
        status=status,
        text=safe(f"{name}: {text}"),
        detail=safe(detail),
        application=ApplicationReference(name=safe(name), version=None if version is None else safe(version)),
        release_id=release_id,
        snapshot_id=snapshot_id,
        next=None if next is None else safe(next),
        host=safe(socket.gethostname()),
        actor=safe(actor()),
        project=safe(str(settings.project)),
        diagnostics=[safe(message) for message in (diagnostics or [])[:_MAX_DIAGNOSTICS]],
    )


@frozen(kw_only=True)
class SendAttempt:
    """The result of one attempt to deliver. ``is_final`` is True when another attempt would have the same result."""

    is_delivered: bool
    detail: str
    is_final: bool = False


@frozen(kw_only=True)
class Delivery:
    """The result of a notification for one receiver; ``name`` is its key in ``release.notices``."""

    name: str
    status: Literal["sent", "failed"]
    attempts: int
    detail: str


def notification_bytes(notification: Notification) -> bytes:
    """Return the exact bytes of the document that is sent."""
    return canonical_bytes(encode(notification))


def notification_redactor(settings: Settings) -> Redactor:
    """Return the redactor for the secrets that a message or the output of a command may contain."""
    return Redactor.from_environment(os.environ, settings.release.secret_variables)
