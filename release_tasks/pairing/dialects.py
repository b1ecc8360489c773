"""The two forms that pairing stores have on disk, and how to change a store without leaving its form.

A store keeps everything that it held before: unknown keys, of the file and of each request, are written back.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from attrs import define, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import decode
from release_tasks.pairing.codes import Moment, plain_code

__all__ = ["ApprovedDocument", "Dialect", "Request", "RequestsDocument"]

VERSION = 1

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@frozen(kw_only=True)
class Dialect:
    """How one of the two forms spells things. The versioned form keeps no expiry: the configured life decides."""

    is_versioned: bool
    sender: str
    requested: str
    approved: str

    def header(self) -> dict[str, Any]:
        """Return what a new store of this form holds beside its entries."""
        return {"version": VERSION} if self.is_versioned else {}


PLAIN = Dialect(is_versioned=False, sender="senderId", requested="requestedAt", approved="senderIds")
VERSIONED = Dialect(is_versioned=True, sender="id", requested="createdAt", approved="allowFrom")


@frozen(kw_only=True)
class Request:
    """One request; ``raw`` is how it stands in the file. ``life`` is in seconds, None where the form keeps none."""

    sender: str
    code: str
    begun: Moment
    life: float | None
    raw: dict[str, Any]


@frozen(kw_only=True)
class _PlainRequest:
    sender_id: str
    code: str
    requested_at: str
    expires_at: str
    boot_id: str = ""
    uptime_ms: int = 0


@frozen(kw_only=True)
class _VersionedRequest:
    id: str
    code: str
    created_at: str
    boot_id: str = ""
    uptime_ms: int = 0


@frozen(kw_only=True)
class _PlainRequests:
    requests: list[_PlainRequest]


@frozen(kw_only=True)
class _VersionedRequests:
    requests: list[_VersionedRequest]


@frozen(kw_only=True)
class _PlainApproved:
    sender_ids: list[str]


@frozen(kw_only=True)
class _VersionedApproved:
    allow_from: list[str]


@define
class RequestsDocument:
    """A file of pending requests: its form, its requests, and whatever else it holds."""

    dialect: Dialect
    requests: list[Request]
    _rest: dict[str, Any]

    @classmethod
    def parse(cls, value: dict[str, Any], name: str) -> RequestsDocument:
        """Read parsed JSON; raises InvalidDocument, naming ``name`` and every wrong key."""
        requests = value.get("requests")
        first = requests[0] if isinstance(requests, list) and requests else None
        is_versioned = "version" in value
        if isinstance(first, dict):
            is_versioned = VERSIONED.sender in first and PLAIN.sender not in first
        dialect = VERSIONED if is_versioned else PLAIN
        _require_known_version(value, dialect, name)
        decode(_VersionedRequests if is_versioned else _PlainRequests, value, name)
        found: list[Request] = []
        codes: set[str] = set()
        for index, raw in enumerate(value["requests"]):
            found.append(_request(dialect, raw, f"{name}: requests.{index}"))
            if (code := plain_code(raw["code"])) in codes:
                raise InvalidDocument(f"{name}: requests.{index}.code is that of another request, too")
            codes.add(code)
        return cls(dialect, found, value)

    def new_request(self, sender: str, code: str, moment: Moment, life: float) -> Request:
        """Return a request that begins at ``moment`` and lives ``life`` seconds, as this file would spell it."""
        requested_at = timestamp(moment.wall)
        raw: dict[str, Any] = {self.dialect.sender: sender, "code": code, self.dialect.requested: requested_at}
        if self.dialect.is_versioned:
            raw["lastSeenAt"] = requested_at
        else:
            raw["expiresAt"] = timestamp(moment.wall + timedelta(seconds=life))
        if moment.boot_id:
            # Extra keys of ours: with the wall clock alone, setting it back would give a request a second life.
            raw |= {"bootId": moment.boot_id, "uptimeMs": moment.uptime_ms}
        return Request(sender=sender, code=code, begun=moment, life=life, raw=raw)

    def value(self) -> dict[str, Any]:
        """Return the whole file as JSON values."""
        return {**self._rest, "requests": [request.raw for request in self.requests]}


@define
class ApprovedDocument:
    """A file of approved senders: its form, its entries as they stand, and whatever else it holds."""

    dialect: Dialect
    entries: list[str]
    _rest: dict[str, Any]

    @classmethod
    def parse(cls, value: dict[str, Any], name: str) -> ApprovedDocument:
        """Read parsed JSON; raises InvalidDocument, naming ``name`` and every wrong key."""
        found = [dialect for dialect in (PLAIN, VERSIONED) if dialect.approved in value]
        if len(found) > 1:
            raise InvalidDocument(f"{name} does not have the expected form (it has both senderIds and allowFrom)")
        dialect = found[0] if found else PLAIN
        _require_known_version(value, dialect, name)
        entries = value.get(dialect.approved)
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            decode(_VersionedApproved if dialect.is_versioned else _PlainApproved, value, name)  # says what is wrong
        return cls(dialect, value[dialect.approved], value)

    def value(self) -> dict[str, Any]:
        """Return the whole file as JSON values, its entries sorted."""
        return {**self._rest, self.dialect.approved: sorted(self.entries)}


def _require_known_version(value: dict[str, Any], dialect: Dialect, name: str) -> None:
    version = value.get("version", VERSION)
    if dialect.is_versioned and (type(version) is not int or version != VERSION):
        raise InvalidDocument(f"{name} has version {version!r}; this release knows {VERSION}")


def _request(dialect: Dialect, raw: dict[str, Any], place: str) -> Request:
    if not plain_code(raw["code"]):
        raise InvalidDocument(f"{place}.code is empty")
    wall = _parse_time(raw[dialect.requested], f"{place}.{dialect.requested}")
    life = None
    if not dialect.is_versioned:
        life = (_parse_time(raw["expiresAt"], f"{place}.expiresAt") - wall).total_seconds()
    begun = Moment(wall=wall, boot_id=raw.get("bootId", ""), uptime_ms=raw.get("uptimeMs", 0))
    return Request(sender=raw[dialect.sender], code=raw["code"], begun=begun, life=life, raw=raw)


def _parse_time(text: str, place: str) -> datetime:
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        zone = "+00:00" if match[3] in "Zz" else match[3]
        moment = datetime.fromisoformat(match[1].upper() + zone)
        return moment + timedelta(seconds=float(match[2] or 0))
    except (ValueError, OverflowError):
        raise InvalidDocument(f"{place}: expected a time such as 2026-01-31T03:00:00.123Z, got {text!r}") from None
