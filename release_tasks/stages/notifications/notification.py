"""What is said: one occasion as a versioned document, bounded in size and without secrets."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Literal

from attrs import field, frozen

from release_tasks.config.schema import Settings
from release_tasks.core.audit import actor
from release_tasks.core.canonical import canonical_bytes, excerpt
from release_tasks.core.clock import compact, timestamp
from release_tasks.core.codec import encode
from release_tasks.core.printable import printable
from release_tasks.core.redact import Redactor

__all__ = [
    "NOTIFICATION_VERSION",
    "Concerned",
    "Delivery",
    "Notification",
    "Occasion",
    "SendAttempt",
    "new_notification",
    "notification_bytes",
    "notification_redactor",
]

NOTIFICATION_VERSION = 1
Occasion = Literal["prepared", "blocked", "restored", "failed", "degraded"]

_LONGEST_TEXT = 1000  # characters; a health endpoint or a gate may have answered with far more
_MOST_DIAGNOSTICS = 20


@frozen(kw_only=True)
class Concerned:
    """The application that a notice is about; ``version`` is that of the release, None where it is not known."""

    name: str
    version: str | None = None


@frozen(kw_only=True)
class Notification:
    """One occasion. ``id`` is the same in every attempt and for every receiver; ``next`` is the command to type.

    ``text`` says all of it in a sentence, for receivers that show nothing else.
    """

    notice_version: int
    id: str
    time: str
    occasion: Occasion
    stage: str
    status: str
    text: str
    detail: str
    application: Concerned
    release_id: str | None
    snapshot_id: str | None
    next: str | None
    host: str
    actor: str
    project: str
    diagnostics: list[str] = field(factory=list)


def new_notification(
    settings: Settings,
    occasion: Occasion,
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
    """Return what is to be said now, with whoever types it and where; ``text`` comes behind the application's name."""
    redactor = notification_redactor(settings)

    def safe(text: str) -> str:
        return excerpt(printable(redactor.redact_text(text)), _LONGEST_TEXT)

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
        application=Concerned(name=safe(name), version=None if version is None else safe(version)),
        release_id=release_id,
        snapshot_id=snapshot_id,
        next=next,
        host=socket.gethostname(),
        actor=safe(actor()),
        project=safe(str(settings.project)),
        diagnostics=[safe(sentence) for sentence in (diagnostics or [])[:_MOST_DIAGNOSTICS]],
    )


@frozen(kw_only=True)
class SendAttempt:
    """How one attempt ended. ``is_final`` says that another one would end the same way."""

    is_delivered: bool
    detail: str
    is_final: bool = False


@frozen(kw_only=True)
class Delivery:
    """What became of a notice for one of its receivers, as ``release.notices`` calls it."""

    name: str
    status: Literal["sent", "failed"]
    attempts: int
    detail: str


def notification_bytes(notice: Notification) -> bytes:
    """Return the document as it is sent, byte for byte."""
    return canonical_bytes(encode(notice))


def notification_redactor(settings: Settings) -> Redactor:
    """Return what knows the secrets that a sentence or a command's output may hold."""
    return Redactor.from_environment(os.environ, settings.release.secret_variables)
