"""The two JSON formats of pairing stores; a change keeps the format of the store.

Unknown keys of the file and of each request are written back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import define, evolve, field, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import decode
from release_tasks.pairing.codes import ClockReading, plain_code

__all__ = ["NO_PERSONS", "PLAIN", "ApprovedDocument", "Dialect", "Persons", "Request", "RequestsDocument", "joined"]

VERSION = 1
_REVOKED, _GROUPS = "revokedIds", "sameSender"

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@frozen(kw_only=True)
class Dialect:
    """The keys of one of the two formats. The versioned format stores no expiry: the configured lifetime applies."""

    is_versioned: bool
    sender: str
    requested: str
    approved: str

    def header(self) -> dict[str, Any]:
        """Return the keys of a new store in addition to its entries."""
        return {"version": VERSION} if self.is_versioned else {}


PLAIN = Dialect(is_versioned=False, sender="senderId", requested="requestedAt", approved="senderIds")
VERSIONED = Dialect(is_versioned=True, sender="id", requested="createdAt", approved="allowFrom")


@frozen(kw_only=True)
class Request:
    """One request; ``raw`` is its JSON object. ``lifetime`` is in seconds, None if the format stores no expiry.

    ``other_ids`` are further ids of the sender that the message contained.
    """

    sender: str
    code: str
    created: ClockReading
    lifetime: float | None
    raw: dict[str, Any]
    other_ids: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids of the request, ``sender`` first."""
        return self.sender, *self.other_ids


@frozen(kw_only=True)
class _PlainRequest:
    sender_id: str
    code: str
    requested_at: str
    expires_at: str
    boot_id: str = ""
    uptime_ms: int = 0
    other_ids: list[str] = field(factory=list)


@frozen(kw_only=True)
class _VersionedRequest:
    id: str
    code: str
    created_at: str
    boot_id: str = ""
    uptime_ms: int = 0
    other_ids: list[str] = field(factory=list)


@frozen(kw_only=True)
class _PlainRequests:
    requests: list[_PlainRequest]


@frozen(kw_only=True)
class _VersionedRequests:
    requests: list[_VersionedRequest]


@frozen(kw_only=True)
class _PersonsKeys:
    revoked_ids: list[str] = field(factory=list)
    same_sender: list[list[str]] = field(factory=list)


@frozen(kw_only=True)
class _PlainApproved(_PersonsKeys):
    sender_ids: list[str]


@frozen(kw_only=True)
class _VersionedApproved(_PersonsKeys):
    allow_from: list[str]


@frozen
class Persons:
    """What is known about the ids of a person, on a channel where a person can have several.

    ``revoked`` are the ids whose last decision is a revocation. Each of ``groups`` are ids of one person, which were
    seen in one message.
    """

    revoked: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()

    def merged(self, other: Persons) -> Persons:
        """Return the content of both."""
        if {*other.revoked} <= {*self.revoked} and {*other.groups} <= {*self.groups}:
            return self
        return Persons(tuple(sorted({*self.revoked, *other.revoked})), tuple(sorted({*self.groups, *other.groups})))

    def with_group(self, ids: Iterable[str]) -> Persons:
        """Return the content with one more group, joined with the groups that have an id in common with it."""
        return evolve(self, groups=tuple(sorted(tuple(sorted(group)) for group in joined([*self.groups, ids]))))


NO_PERSONS = Persons()


def joined(groups: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """Return the groups, where groups with a common id become one; without groups of one id."""
    found: list[set[str]] = []
    for group in map(set, groups):
        for other in [other for other in found if not other.isdisjoint(group)]:
            found.remove(other)
            group |= other
        found.append(group)
    return [frozenset(group) for group in found if len(group) > 1]


@define
class RequestsDocument:
    """A file of pending requests: its format, its requests and its other keys."""

    dialect: Dialect
    requests: list[Request]
    _document: dict[str, Any]

    @classmethod
    def parse(cls, value: dict[str, Any], name: str) -> RequestsDocument:
        """Read parsed JSON; raises InvalidDocument, which names ``name`` and every wrong key."""
        requests = value.get("requests")
        first = requests[0] if isinstance(requests, list) and requests else None
        is_versioned = "version" in value
        if isinstance(first, dict):
            is_versioned = VERSIONED.sender in first and PLAIN.sender not in first
        dialect = VERSIONED if is_versioned else PLAIN
        _require_known_version(value, dialect, name)
        decode(_VersionedRequests if is_versioned else _PlainRequests, value, name)
        parsed: list[Request] = []
        codes: set[str] = set()
        for index, raw in enumerate(value["requests"]):
            parsed.append(_request(dialect, raw, f"{name}: requests.{index}"))
            if (code := plain_code(raw["code"])) in codes:
                raise InvalidDocument(f"{name}: requests.{index}.code is already the code of another request")
            codes.add(code)
        return cls(dialect, parsed, value)

    def new_request(self, ids: Sequence[str], code: str, now: ClockReading, lifetime: float) -> Request:
        """Return a request in the format of this file, created ``now`` and valid for ``lifetime`` seconds."""
        sender, *other_ids = ids
        requested_at = timestamp(now.wall)
        raw: dict[str, Any] = {self.dialect.sender: sender, "code": code, self.dialect.requested: requested_at}
        if self.dialect.is_versioned:
            raw["lastSeenAt"] = requested_at
        else:
            raw["expiresAt"] = timestamp(now.wall + timedelta(seconds=lifetime))
        if now.boot_id:
            # Additional keys: with the wall clock alone, setting it back would extend the lifetime of a request.
            raw |= {"bootId": now.boot_id, "uptimeMs": now.uptime_ms}
        if other_ids:
            raw["otherIds"] = other_ids
        return Request(sender=sender, code=code, created=now, lifetime=lifetime, raw=raw, other_ids=tuple(other_ids))

    def value(self) -> dict[str, Any]:
        """Return the JSON value of the file."""
        return {**self._document, "requests": [request.raw for request in self.requests]}


@define
class ApprovedDocument:
    """A file of approved senders: its format, its unmodified entries and its other keys."""

    dialect: Dialect
    entries: list[str]
    _document: dict[str, Any]
    persons: Persons = NO_PERSONS

    @classmethod
    def parse(cls, value: dict[str, Any], name: str) -> ApprovedDocument:
        """Read parsed JSON; raises InvalidDocument, which names ``name`` and every wrong key."""
        dialects = [dialect for dialect in (PLAIN, VERSIONED) if dialect.approved in value]
        if len(dialects) > 1:
            raise InvalidDocument(f"{name} does not have the expected form (it contains both senderIds and allowFrom)")
        dialect = dialects[0] if dialects else PLAIN
        _require_known_version(value, dialect, name)
        entries = value.get(dialect.approved)
        is_plain_list = isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)
        if not is_plain_list or _REVOKED in value or _GROUPS in value:
            decode(_VersionedApproved if dialect.is_versioned else _PlainApproved, value, name)
        persons = Persons(tuple(value.get(_REVOKED, ())), tuple(map(tuple, value.get(_GROUPS, ()))))
        return cls(dialect, value[dialect.approved], value, persons)

    def value(self) -> dict[str, Any]:
        """Return the JSON value of the file, with sorted entries."""
        value = {**self._document, self.dialect.approved: sorted(self.entries)}
        for key, ids in ((_REVOKED, list(self.persons.revoked)), (_GROUPS, list(map(list, self.persons.groups)))):
            if ids or key in value:
                value[key] = ids
        return value


def _require_known_version(value: dict[str, Any], dialect: Dialect, name: str) -> None:
    version = value.get("version", VERSION)
    if dialect.is_versioned and (type(version) is not int or version != VERSION):
        raise InvalidDocument(
            f"{name} has version {version!r}; this version of release-tasks supports version {VERSION}"
        )


def _request(dialect: Dialect, raw: dict[str, Any], path: str) -> Request:
    if not plain_code(raw["code"]):
        raise InvalidDocument(f"{path}.code is empty")
    wall = _parse_time(raw[dialect.requested], f"{path}.{dialect.requested}")
    lifetime = None
    if not dialect.is_versioned:
        lifetime = (_parse_time(raw["expiresAt"], f"{path}.expiresAt") - wall).total_seconds()
    created = ClockReading(wall=wall, boot_id=raw.get("bootId", ""), uptime_ms=raw.get("uptimeMs", 0))
    return Request(
        sender=raw[dialect.sender],
        code=raw["code"],
        created=created,
        lifetime=lifetime,
        raw=raw,
        other_ids=tuple(raw.get("otherIds", ())),
    )


def _parse_time(text: str, path: str) -> datetime:
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        zone = "+00:00" if match[3] in "Zz" else match[3]
        whole_seconds = datetime.fromisoformat(match[1].upper() + zone)
        return whole_seconds + timedelta(seconds=float(match[2] or 0))
    except (ValueError, OverflowError):
        raise InvalidDocument(f"{path}: expected a time such as 2026-01-31T03:00:00.123Z, got {text!r}") from None
