"""The approval of senders: an unknown sender gets a code, an operator approves it, and every decision is recorded.

The audit event is written before the change, so every approval has an event. After a kill between the two, the command
can be repeated with the same code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn

from attrs import frozen

from release_tasks.config.schema import PairingConfig
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageFailed
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.typed import typed
from release_tasks.pairing.channels import (
    Channel,
    SenderRefused,
    is_spelling_of,
    normalise_sender,
    sender_of,
    senders_of,
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
from release_tasks.pairing.dialects import Request
from release_tasks.pairing.store import Change, Store

__all__ = ["Approval", "Pairing", "PendingRequest", "RequestOutcome"]


@frozen(kw_only=True)
class PendingRequest:
    """A request that waits for the decision of an operator. ``age`` and ``time_left`` are in seconds."""

    sender: str
    code: str
    requested_at: datetime
    expires_at: datetime
    age: float
    time_left: float


@frozen(kw_only=True)
class RequestOutcome:
    """The result of a request; ``request`` is None for ``full`` and ``approved``."""

    status: Literal["created", "repeated", "full", "approved"]
    request: PendingRequest | None = None


@frozen(kw_only=True)
class Approval:
    """An approved sender; ``was_approved`` if the sender was approved before."""

    sender: str
    was_approved: bool


class Pairing:
    """The pairing of one service. Several processes and threads may use it at the same time.

    Every method raises StoreUnusable when a file of the channel is damaged. A method that changes the store also raises
    LockHeld when another process holds the lock, and OSError when the file cannot be written.
    """

    def __init__(self, config: PairingConfig, clock: Clock = read_clocks) -> None:
        self._ttl = config.ttl
        self._max_pending = config.max_pending
        self._clock = clock
        self._store = Store(config.credentials)
        self.audit = self._store.audit

    def check(self) -> None:
        """Read every store once; raises StoreUnusable for the first unusable store."""
        for channel in Channel:
            self._store.approved_senders(channel)
            self._store.requests(channel)

    def is_approved(self, channel: Channel, sender: str) -> bool:
        """Return whether a message of this sender may be processed; False for an invalid or shared id."""
        try:
            sender = normalise_sender(channel, sender)
        except SenderRefused:
            return False
        return sender in self._store.approved_senders(channel)

    def approved(self, channel: Channel) -> list[str]:
        """Return the approved senders, sorted, without invalid and shared ids."""
        return sorted(self._store.approved_senders(channel))

    def lookup(self, channel: Channel, code: str) -> str:
        """Return the sender of the pending request with this code; raises StageFailed for an unknown code."""
        matching = [request.sender for request in self.pending(channel) if is_same_code(code, request.code)]
        if not matching:
            raise StageFailed(_unknown_code(channel))
        return matching[0]

    def lookup_approved(self, channel: Channel, sender: str) -> str:
        """Return the normalised id of an approved sender; raises SenderRefused, or StageFailed if not approved."""
        sender = normalise_sender(channel, sender)
        if sender not in self._store.approved_senders(channel):
            raise StageFailed(_not_approved(channel, sender))
        return sender

    def pending(self, channel: Channel) -> list[PendingRequest]:
        """Return the requests that can still be approved, oldest first."""
        requests, now = self._store.requests(channel), self._clock()
        approved = self._store.approved_senders(channel)
        # After a killed `approve`, the sender can be approved while the request still exists.
        pending = [request for request in self._unexpired(channel, requests, now) if request.sender not in approved]
        return sorted(pending, key=lambda request: (-request.age, request.sender))

    def request(self, channel: Channel, sender: str) -> RequestOutcome:
        """Create a pairing request; a second request returns the same code, and its expiry does not change.

        Raises SenderRefused for an invalid or shared id; then nothing is stored.
        """
        sender = normalise_sender(channel, sender)
        # First checked without the lock: a sender who writes many messages must not block an operator's command.
        outcome = self._existing_outcome(
            channel, sender, self._store.requests(channel), self._clock(), self._store.approved_senders(channel)
        )
        if outcome is not None:
            return outcome
        with self._store.change(channel) as change:
            now = self._clock()
            change.requests = [r for r in change.requests if self._time_left(r, now) > 0]
            approved = senders_of(channel, change.approved)
            outcome = self._existing_outcome(channel, sender, change.requests, now, approved)
            if outcome is not None:
                return outcome
            taken = {plain_code(request.code) for request in change.requests}
            new = change.requests_document.new_request(sender, new_code(taken), now, self._ttl)
            change.requests.append(new)
            self._commit(channel, change, "pairing.requested", "pending", sender)
            return RequestOutcome(status="created", request=self._pending_request(channel, new, now))

    def _existing_outcome(
        self, channel: Channel, sender: str, requests: list[Request], now: ClockReading, approved: Collection[str]
    ) -> RequestOutcome | None:
        """Return the outcome if the sender gets no new request, else None."""
        if sender in approved:
            return RequestOutcome(status="approved")
        unexpired = self._unexpired(channel, requests, now)
        for request in unexpired:
            if request.sender == sender:
                return RequestOutcome(status="repeated", request=request)
        is_full = sum(request.sender not in approved for request in unexpired) >= self._max_pending
        return RequestOutcome(status="full") if is_full else None

    def approve(self, channel: Channel, code: str) -> Approval:
        """Approve the sender of the pending request with this code; case, spaces and dashes do not matter.

        Raises StageFailed for an unknown or expired code. After a kill, it can be repeated until the request expires.
        """
        with self._decision(channel, code, "approve") as (change, request):
            try:
                sender = normalise_sender(channel, request.sender)
            except SenderRefused as refusal:
                self._refuse(channel, "approve", str(refusal), request.sender)
            was_approved = sender in senders_of(channel, change.approved)
            if not was_approved:
                change.approved.append(sender)
            change.requests.remove(request)
            detail = "was already approved" if was_approved else ""
            self._commit(channel, change, "pairing.approved", "granted", sender, detail)
            return Approval(sender=sender, was_approved=was_approved)

    def reject(self, channel: Channel, code: str) -> str:
        """Remove the pending request with this code and return its sender, who may send a new request.

        Raises StageFailed for an unknown or expired code, or when the sender is already approved.
        """
        with self._decision(channel, code, "reject") as (change, request):
            sender = sender_of(channel, request.sender)
            if sender in change.approved or sender in senders_of(channel, change.approved):
                command = typed("pairing.revoke", channel.value, sender)
                message = f"{sender} is already approved on {channel.value}. To revoke the approval, run `{command}`."
                self._refuse(channel, "reject", message, sender)
            change.requests.remove(request)
            self._commit(channel, change, "pairing.rejected", "rejected", sender)
            return sender

    def revoke(self, channel: Channel, sender: str) -> str:
        """Remove the approval and the pending requests of a sender and return the normalised id.

        Raises SenderRefused for an invalid or shared id, StageFailed when the sender is not approved.
        """
        sender = normalise_sender(channel, sender)
        with self._store.change(channel) as change:
            if sender not in senders_of(channel, change.approved):
                self._refuse(channel, "revoke", _not_approved(channel, sender), sender)
            change.approved = [entry for entry in change.approved if not is_spelling_of(channel, entry, sender)]
            change.requests = [r for r in change.requests if not is_spelling_of(channel, r.sender, sender)]
            self._commit(channel, change, "pairing.revoked", "revoked", sender)
            return sender

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
                message = f"The code of {excerpt(request.sender)} has expired."
                hint = "Ask the sender to write again to get a new code."
                self._refuse(channel, action, f"{message} {hint}", request.sender)
            change.requests = [r for r in change.requests if self._time_left(r, now) > 0]
            yield change, request

    def _commit(self, channel: Channel, change: Change, event: str, status: str, sender: str, detail: str = "") -> None:
        fields: dict[str, Any] = {"channel": channel.value, "senderId": excerpt(sender)}
        excluded: dict[str, Any] = {"leftOut": change.excluded} if change.excluded else {}
        with uninterrupted():
            self.audit.append(event, status=status, detail=detail, **fields, **excluded)
            try:
                change.commit()
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.audit.append("pairing.failed", status="failed", detail=f"{event}: {error.strerror}", **fields)
                raise

    def _refuse(self, channel: Channel, action: str, detail: str, sender: str | None = None) -> NoReturn:
        fields: dict[str, Any] = {"channel": channel.value}
        if sender is not None:
            fields["senderId"] = excerpt(sender)
        self.audit.append("pairing.refused", status="refused", detail=detail, action=action, **fields)
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
        )


def _unknown_code(channel: Channel) -> str:
    command = f"`{typed('pairing.list', channel.value)}`"
    return f"No {channel.value} request has this code: mistyped or already used. {command} shows the pending requests."


def _not_approved(channel: Channel, sender: str) -> str:
    return f"{sender} is not approved on {channel.value}, so there is nothing to revoke."
