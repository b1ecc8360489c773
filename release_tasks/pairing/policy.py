"""The approval of senders: an unknown sender gets a code, an operator approves it, and every decision is recorded.

The audit event is written before the change, so every approval has an event. After a kill between the two, the command
can be repeated with the same code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NoReturn

from attrs import evolve, frozen

from release_tasks.config.schema import PairingConfig
from release_tasks.core.canonical import excerpt, excerpt_line
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.typed import typed
from release_tasks.pairing.approvals import Approvals
from release_tasks.pairing.channels import (
    Channel,
    SenderRefused,
    is_spelling_of,
    normalise_sender,
    sender_of,
    valid_ids,
)
from release_tasks.pairing.codes import (
    Clock,
    ClockReading,
    age,
    is_same_code,
    new_code,
    plain_code,
    read_clocks,
    time_left,
)
from release_tasks.pairing.dialects import Persons, Request
from release_tasks.pairing.store import Change, Store

__all__ = ["Approval", "IgnoredEntry", "Pairing", "PendingRequest", "RequestOutcome"]

_DECISIONS = ("pairing.approved", "pairing.rejected", "pairing.revoked")


@frozen(kw_only=True)
class PendingRequest:
    """A request that waits for the decision of an operator. ``age`` and ``time_left`` are in seconds.

    ``other_ids`` are further ids of the sender that the message contained.
    """

    sender: str
    code: str
    requested_at: datetime
    expires_at: datetime
    age: float
    time_left: float
    other_ids: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids of the request, ``sender`` first."""
        return self.sender, *self.other_ids


@frozen(kw_only=True)
class RequestOutcome:
    """The result of a request; ``request`` is None for ``full`` and ``approved``."""

    status: Literal["created", "repeated", "full", "approved"]
    request: PendingRequest | None = None


@frozen(kw_only=True)
class Approval:
    """An approved sender, with ``other_ids`` of the same request; ``was_approved`` if all were approved before."""

    sender: str
    was_approved: bool
    other_ids: tuple[str, ...] = ()


@frozen
class IgnoredEntry:
    """An entry of a file of approvals that approves no sender, and the reason."""

    entry: str
    reason: str


class Pairing:
    """The pairing of one service. Several processes and threads may use it at the same time.

    ``lock_wait`` is the time in seconds that a change waits for the lock of a store, 10 s by default.

    Every method raises StoreUnusable when a file of the channel is damaged. A method that changes the store also raises
    LockHeld when another process holds the lock, and OSError when the file cannot be written. Raises ForeignFolder in a
    run as root when another user can change the folder of the stores.
    """

    def __init__(self, config: PairingConfig, clock: Clock = read_clocks, *, lock_wait: float | None = None) -> None:
        self._ttl = config.ttl
        self._max_pending = config.max_pending
        self._clock = clock
        self._store = Store(config.credentials, lock_wait)
        self._store.require_own()
        self.audit = self._store.audit

    def check(self) -> None:
        """Read every store once; raises StoreUnusable for the first unusable store."""
        for channel in Channel:
            self._store.approvals(channel)
            self._store.requests(channel)

    def is_approved(self, channel: Channel, sender: str) -> bool:
        """Return whether a message of this sender may be processed; False for an invalid or shared id."""
        return self.admitted(channel, [sender]) is not None

    def admitted(self, channel: Channel, senders: Sequence[str]) -> str | None:
        """Return the approved id of a message with these ids; None if it must not be processed.

        One approved id is enough, unless an id of the same person is revoked. Never waits for the lock: when it is
        held, or the store cannot be written, a later message records that the ids belong to one person.
        """
        ids = valid_ids(channel, senders)
        approvals = self._store.approvals(channel)
        if approvals.is_unlinked(ids):
            with contextlib.suppress(StageError, OSError):
                self._link(channel, ids)
        return approvals.admitted(ids)

    def approved(self, channel: Channel) -> list[str]:
        """Return the approved senders, sorted, without invalid and shared ids."""
        return sorted(self._store.approvals(channel).approved)

    def same_person(self, channel: Channel) -> dict[str, list[str]]:
        """Return, for each id that was seen with others, the other ids of the same person."""
        persons = self._store.approvals(channel).persons
        return {sender: sorted(ids - {sender}) for sender, ids in persons.items()}

    def ignored(self, channel: Channel) -> list[IgnoredEntry]:
        """Return the entries of the file of approvals that approve no sender: invalid and shared ids."""
        document = self._store.approved_document(channel)
        found = []
        for entry in document.entries if document is not None else []:
            try:
                normalise_sender(channel, entry)
            except SenderRefused as refusal:
                found.append(IgnoredEntry(entry, refusal.reason))
        return found

    def approved_path(self, channel: Channel) -> Path:
        """Return the file of approvals."""
        return self._store.approved_path(channel)

    def lookup(self, channel: Channel, code: str) -> str:
        """Return the sender of the pending request with this code; raises StageFailed for an unknown code."""
        matching = [request.sender for request in self.pending(channel) if is_same_code(code, request.code)]
        if not matching:
            raise StageFailed(_unknown_code(channel))
        return matching[0]

    def lookup_approved(self, channel: Channel, sender: str) -> str:
        """Return the normalised id for a revocation; raises SenderRefused, or StageFailed if it is not approved."""
        sender = normalise_sender(channel, sender)
        approvals = self._store.approvals(channel)
        if approvals.approved.isdisjoint(approvals.person([sender])):
            raise StageFailed(_not_approved(channel, sender))
        return sender

    def pending(self, channel: Channel) -> list[PendingRequest]:
        """Return the requests that can still be approved, oldest first."""
        requests, now = self._store.requests(channel), self._clock()
        pending = _undecided(self._unexpired(channel, requests, now), self._store.approvals(channel))
        return sorted(pending, key=lambda request: (-request.age, request.sender))

    def request(self, channel: Channel, sender: str, *other_ids: str) -> RequestOutcome:
        """Create a pairing request; a second request returns the same code, and its expiry does not change.

        ``other_ids`` are further ids of the sender, from the same message; invalid ones are left out. Raises
        SenderRefused for an invalid or shared id; then nothing is stored.
        """
        ids = valid_ids(channel, [normalise_sender(channel, sender), *other_ids])
        if not ids:
            raise SenderRefused(channel, sender, "another id of the message is not the id of one person", True)
        # First checked without the lock: a sender who writes many messages must not block an operator's command.
        outcome = self._existing_outcome(
            channel, ids, self._store.requests(channel), self._clock(), self._store.approvals(channel)
        )
        if outcome is not None:
            return outcome
        with self._store.change(channel) as change:
            now = self._clock()
            change.requests = [r for r in change.requests if self._time_left(r, now) > 0]
            outcome = self._existing_outcome(channel, ids, change.requests, now, change.approvals)
            if outcome is not None:
                return outcome
            taken = {plain_code(request.code) for request in change.requests}
            new = change.requests_document.new_request(ids, new_code(taken), now, self._ttl)
            change.requests.append(new)
            self._commit(channel, change, "pairing.requested", "pending", ids, _revoked_note(change.approvals, ids))
            return RequestOutcome(status="created", request=self._pending_request(channel, new, now))

    def _existing_outcome(
        self, channel: Channel, ids: Sequence[str], requests: list[Request], now: ClockReading, approvals: Approvals
    ) -> RequestOutcome | None:
        """Return the outcome if the sender gets no new request, else None."""
        if approvals.admitted(ids) is not None:
            return RequestOutcome(status="approved")
        unexpired = self._unexpired(channel, requests, now)
        for request in unexpired:
            # A request without one of these ids stays as it is: its code must not approve an id that it does not show.
            if set(ids) <= set(request.ids):
                return RequestOutcome(status="repeated", request=request)
        is_full = len(_undecided(unexpired, approvals)) >= self._max_pending
        return RequestOutcome(status="full") if is_full else None

    def approve(self, channel: Channel, code: str) -> Approval:
        """Approve the sender of the pending request with this code; case, spaces and dashes do not matter.

        All ids of the request are approved, and their revocations end. Raises StageFailed for an unknown or expired
        code. After a kill, it can be repeated until the request expires.
        """
        with self._decision(channel, code, "approve") as (change, request):
            try:
                sender = normalise_sender(channel, request.sender)
            except SenderRefused as refusal:
                self._refuse(channel, "approve", str(refusal), [request.sender])
            ids = valid_ids(channel, [sender, *request.other_ids])
            approvals = change.approvals
            was_approved = approvals.admitted([sender]) is not None and approvals.approved.issuperset(ids)
            change.approved += [each for each in ids if each not in approvals.approved]
            if len(ids) > 1:
                change.persons = change.persons.with_group(ids)
            decided = approvals.person(ids)
            revoked = [entry for entry in change.persons.revoked if sender_of(channel, entry) not in decided]
            change.persons = evolve(change.persons, revoked=tuple(revoked))
            change.requests.remove(request)
            detail = "was already approved" if was_approved else ""
            self._commit(channel, change, "pairing.approved", "granted", ids, detail)
            return Approval(sender=sender, was_approved=was_approved, other_ids=tuple(ids[1:]))

    def reject(self, channel: Channel, code: str) -> str:
        """Remove the pending request with this code and return its sender, who may send a new request.

        Raises StageFailed for an unknown or expired code, or when the sender is already approved.
        """
        with self._decision(channel, code, "reject") as (change, request):
            ids = [sender_of(channel, each) for each in request.ids]
            # An invalid id, which another program may accept, is approved only for that program.
            is_foreign = ids[0] in change.approved and ids[0] not in change.approvals.approved
            if is_foreign or change.approvals.admitted(ids) is not None:
                shown = excerpt_line(ids[0])
                command = typed("pairing.revoke", channel.value, shown)
                message = f"{shown} is already approved on {channel.value}. To revoke the approval, run `{command}`."
                self._refuse(channel, "reject", message, ids[:1])
            change.requests.remove(request)
            self._commit(channel, change, "pairing.rejected", "rejected", ids)
            return ids[0]

    def revoke(self, channel: Channel, sender: str) -> str:
        """Remove the approvals and the pending requests of a person, and return the normalised id.

        Every id that was seen with this one in a message is revoked, too. Raises SenderRefused for an invalid or shared
        id, StageFailed when no id of the person is approved.
        """
        sender = normalise_sender(channel, sender)
        with self._store.change(channel) as change:
            person = change.approvals.person([sender])
            ids = [sender, *sorted(person - {sender})]
            if change.approvals.approved.isdisjoint(person):
                self._refuse(channel, "revoke", _not_approved(channel, sender), ids)
            change.approved = [entry for entry in change.approved if not _is_of(channel, entry, person)]
            change.requests = [r for r in change.requests if not any(_is_of(channel, each, person) for each in r.ids)]
            if channel.has_several_ids:
                change.persons = change.persons.merged(Persons(revoked=tuple(person)))
            self._commit(channel, change, "pairing.revoked", "revoked", ids)
            return sender

    def _link(self, channel: Channel, ids: Sequence[str]) -> None:
        """Record that these ids are ids of one person, so that a revocation counts for all of them."""
        with self._store.change(channel, wait=0.0) as change:
            if change.approvals.is_unlinked(ids):
                change.persons = change.persons.with_group(ids)
                self._commit(channel, change, "pairing.linked", "noted", ids, "one message contained these ids")

    @contextlib.contextmanager
    def _decision(self, channel: Channel, code: str, action: str) -> Iterator[tuple[Change, Request]]:
        """Yield the unexpired request with this code, under the lock, and remove expired requests."""
        with self._store.change(channel) as change:
            now = self._clock()
            # Compares every code, also after a match, so that the duration reveals nothing.
            matching = [request for request in change.requests if is_same_code(code, request.code)]
            if not matching:
                self._refuse(channel, action, _unknown_code(channel))
            request = matching[0]
            if self._time_left(request, now) <= 0:
                message = f"The code of {excerpt_line(request.sender)} has expired."
                hint = "Ask the sender to write again to get a new code."
                self._refuse(channel, action, f"{message} {hint}", [request.sender])
            change.requests = [r for r in change.requests if self._time_left(r, now) > 0]
            yield change, request

    def _commit(
        self, channel: Channel, change: Change, event: str, status: str, ids: Sequence[str], detail: str = ""
    ) -> None:
        """Write an event, for a decision one for each id, then the change."""
        excluded: dict[str, Any] = {"leftOut": change.excluded} if change.excluded else {}
        fields = _fields(channel, ids)[: None if event in _DECISIONS else 1]
        with uninterrupted():
            for more in fields:
                self.audit.append(event, status=status, detail=detail, **more, **excluded)
            try:
                change.commit()
            except OSError as error:
                with contextlib.suppress(OSError):
                    for more in fields:
                        self.audit.append(
                            "pairing.failed", status="failed", detail=f"{event}: {error.strerror}", **more
                        )
                raise

    def _refuse(self, channel: Channel, action: str, detail: str, ids: Sequence[str] = ()) -> NoReturn:
        for more in _fields(channel, ids) or [{"channel": channel.value}]:
            self.audit.append("pairing.refused", status="refused", detail=detail, action=action, **more)
        raise StageFailed(detail)

    def _unexpired(self, channel: Channel, requests: list[Request], now: ClockReading) -> list[PendingRequest]:
        return [self._pending_request(channel, r, now) for r in requests if self._time_left(r, now) > 0]

    def _time_left(self, request: Request, now: ClockReading) -> float:
        return time_left(request.created, self._lifetime(request), now)

    def _lifetime(self, request: Request) -> float:
        return self._ttl if request.lifetime is None else min(request.lifetime, self._ttl)

    def _pending_request(self, channel: Channel, request: Request, now: ClockReading) -> PendingRequest:
        return PendingRequest(
            sender=sender_of(channel, request.sender),
            code=request.code,
            requested_at=request.created.wall,
            expires_at=request.created.wall + timedelta(seconds=self._lifetime(request)),
            age=age(request.created, now),
            time_left=self._time_left(request, now),
            other_ids=tuple(sender_of(channel, each) for each in request.other_ids),
        )


def _fields(channel: Channel, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the keys of the event of each id."""
    shown = [excerpt(sender) for sender in ids]
    others: list[dict[str, Any]] = [{"otherIds": [other for other in shown if other != sender]} for sender in shown]
    return [
        {"channel": channel.value, "senderId": sender, **(more if len(shown) > 1 else {})}
        for sender, more in zip(shown, others, strict=True)
    ]


def _undecided(requests: list[PendingRequest], approvals: Approvals) -> list[PendingRequest]:
    """Return the requests of senders who are not admitted: a killed ``approve`` can leave the others."""
    return [r for r in requests if approvals.admitted(r.ids) is None]


def _is_of(channel: Channel, entry: str, person: Iterable[str]) -> bool:
    return any(is_spelling_of(channel, entry, sender) for sender in person)


def _revoked_note(approvals: Approvals, ids: Sequence[str]) -> str:
    """Return why a message with an approved id was not admitted, or an empty text if it has none."""
    approved = [sender for sender in ids if sender in approvals.approved]
    revoked = sorted(approvals.person(ids) & approvals.revoked)
    return f"{approved[0]} is approved, but {revoked[0]} of the same sender was revoked" if approved and revoked else ""


def _unknown_code(channel: Channel) -> str:
    command = f"`{typed('pairing.list', channel.value)}`"
    return f"No {channel.value} request has this code: mistyped or already used. {command} shows the pending requests."


def _not_approved(channel: Channel, sender: str) -> str:
    return f"{sender} is not approved on {channel.value}, so there is nothing to revoke."
