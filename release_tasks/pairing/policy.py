"""Who is admitted: strangers get a code, an operator approves it, and every decision is recorded.

The event of a change is written before the change itself: there is no grant without a record of it. A kill between
the two leaves a record whose change can be repeated, with the same code.
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
from release_tasks.pairing.channels import Channel, SenderRefused, is_spelling_of, normalise_sender, person_of, persons
from release_tasks.pairing.codes import (
    Clock,
    Moment,
    age,
    current_moment,
    is_same_code,
    new_code,
    plain_code,
    time_left,
)
from release_tasks.pairing.dialects import Request
from release_tasks.pairing.store import Change, Store

__all__ = ["Approval", "Pairing", "PendingRequest", "RequestOutcome"]


@frozen(kw_only=True)
class PendingRequest:
    """A request that waits for an operator. ``age`` and ``time_left`` are in seconds."""

    sender: str
    code: str
    requested_at: datetime
    expires_at: datetime
    age: float
    time_left: float


@frozen(kw_only=True)
class RequestOutcome:
    """What a stranger's message led to; ``request`` is None when it was turned away or the sender is approved."""

    status: Literal["created", "repeated", "full", "admitted"]
    request: PendingRequest | None = None


@frozen(kw_only=True)
class Approval:
    """An approved sender; ``was_admitted`` when they had been approved before."""

    sender: str
    was_admitted: bool


class Pairing:
    """The pairing of one service. Safe to call from several processes and threads at once.

    Every method raises StoreUnusable when a file of the channel is damaged; those that change something also LockHeld
    when another process keeps the lock, and OSError when it cannot be written.
    """

    def __init__(self, config: PairingConfig, clock: Clock = current_moment) -> None:
        self._life = config.ttl
        self._max_pending = config.max_pending
        self._clock = clock
        self._store = Store(config.credentials)
        self.audit = self._store.audit

    def check(self) -> None:
        """Read every store once; raises StoreUnusable for the first that cannot be used."""
        for channel in Channel:
            self._store.approved_people(channel)
            self._store.requests(channel)

    def is_admitted(self, channel: Channel, sender: str) -> bool:
        """Say whether a message of this sender may be processed; what names no single person never is."""
        try:
            person = normalise_sender(channel, sender)
        except SenderRefused:
            return False
        return person in self._store.approved_people(channel)

    def approved(self, channel: Channel) -> list[str]:
        """Return everybody who is admitted, sorted; entries that name no single person are left out."""
        return sorted(self._store.approved_people(channel))

    def look_up(self, channel: Channel, code: str) -> str:
        """Return the sender whose live request has this code, without deciding; raises StageFailed when none has."""
        matching = [request.sender for request in self.pending(channel) if is_same_code(code, request.code)]
        if not matching:
            raise StageFailed(_unknown_code(channel))
        return matching[0]

    def look_up_approved(self, channel: Channel, sender: str) -> str:
        """Return an approved sender as they are stored; raises SenderRefused, or StageFailed when not approved."""
        person = normalise_sender(channel, sender)
        if person not in self._store.approved_people(channel):
            raise StageFailed(_not_approved(channel, person))
        return person

    def pending(self, channel: Channel) -> list[PendingRequest]:
        """Return the requests that can still be approved, oldest first."""
        requests, moment = self._store.requests(channel), self._clock()
        approved = self._store.approved_people(channel)
        # A killed approval leaves the request of a sender who is approved by now.
        waiting = [request for request in self._live(channel, requests, moment) if request.sender not in approved]
        return sorted(waiting, key=lambda request: (-request.age, request.sender))

    def request(self, channel: Channel, sender: str) -> RequestOutcome:
        """Record that a stranger asks to be admitted; one who asks again gets the same code, and no more time for it.

        Raises SenderRefused for what names no single person; nothing is stored then.
        """
        person = normalise_sender(channel, sender)
        # Checked without the lock first: a stranger who writes again and again must not keep an operator from it.
        known = self._known(
            channel, person, self._store.requests(channel), self._clock(), self._store.approved_people(channel)
        )
        if known is not None:
            return known
        with self._store.change(channel) as change:
            moment = self._clock()
            change.requests = [r for r in change.requests if self._time_left(r, moment) > 0]
            known = self._known(channel, person, change.requests, moment, persons(channel, change.approved))
            if known is not None:
                return known
            taken = {plain_code(request.code) for request in change.requests}
            new = change.found_requests.new_request(person, new_code(taken), moment, self._life)
            change.requests.append(new)
            self._commit(channel, change, "pairing.requested", "pending", person)
            return RequestOutcome(status="created", request=self._shown(channel, new, moment))

    def _known(
        self, channel: Channel, person: str, requests: list[Request], moment: Moment, approved: Collection[str]
    ) -> RequestOutcome | None:
        """Return the outcome for a person who gets no new request, None for one who does."""
        if person in approved:
            return RequestOutcome(status="admitted")
        live = self._live(channel, requests, moment)
        for request in live:
            if request.sender == person:
                return RequestOutcome(status="repeated", request=request)
        is_full = sum(request.sender not in approved for request in live) >= self._max_pending
        return RequestOutcome(status="full") if is_full else None

    def approve(self, channel: Channel, code: str) -> Approval:
        """Admit the sender whose pending request has this code; in any case, with spaces or dashes.

        Raises StageFailed when no live request has it. After a kill it can be repeated until the request expires.
        """
        with self._decision(channel, code, "approve") as (change, request):
            try:
                person = normalise_sender(channel, request.sender)
            except SenderRefused as refusal:
                self._refuse(channel, "approve", str(refusal), request.sender)
            was_admitted = person in persons(channel, change.approved)
            if not was_admitted:
                change.approved.append(person)
            change.requests.remove(request)
            detail = "had been approved before" if was_admitted else ""
            self._commit(channel, change, "pairing.approved", "granted", person, detail)
            return Approval(sender=person, was_admitted=was_admitted)

    def reject(self, channel: Channel, code: str) -> str:
        """Remove the pending request that has this code and return its sender, who may ask again.

        Raises StageFailed when no live request has it, or when its sender has been approved.
        """
        with self._decision(channel, code, "reject") as (change, request):
            person = person_of(channel, request.sender)
            if person in change.approved or person in persons(channel, change.approved):
                what = f"{person} has been approved on {channel.value} already"
                how = f"`inv pairing.revoke {channel.value} {person}` takes it back"
                self._refuse(channel, "reject", f"{what}; {how}.", person)
            change.requests.remove(request)
            self._commit(channel, change, "pairing.rejected", "rejected", person)
            return person

    def revoke(self, channel: Channel, sender: str) -> str:
        """Take an approval back and return the sender; their pending requests, if any, go too.

        Raises SenderRefused for what names no single person, StageFailed when the sender is not approved.
        """
        person = normalise_sender(channel, sender)
        with self._store.change(channel) as change:
            if person not in persons(channel, change.approved):
                self._refuse(channel, "revoke", _not_approved(channel, person), person)
            change.approved = [entry for entry in change.approved if not is_spelling_of(channel, entry, person)]
            change.requests = [r for r in change.requests if not is_spelling_of(channel, r.sender, person)]
            self._commit(channel, change, "pairing.revoked", "revoked", person)
            return person

    @contextlib.contextmanager
    def _decision(self, channel: Channel, code: str, action: str) -> Iterator[tuple[Change, Request]]:
        """Find the live request that an operator decides over, under the lock; expired ones leave with it."""
        with self._store.change(channel) as change:
            moment = self._clock()
            # Every code is compared, also after a match: the time it takes reveals nothing.
            matching = [request for request in change.requests if is_same_code(code, request.code)]
            if not matching:
                self._refuse(channel, action, _unknown_code(channel))
            request = matching[0]
            if self._time_left(request, moment) <= 0:
                again = "Let the sender write again to get a new one."
                self._refuse(
                    channel, action, f"The code of {excerpt(request.sender)} has expired. {again}", request.sender
                )
            change.requests = [r for r in change.requests if self._time_left(r, moment) > 0]
            yield change, request

    def _commit(self, channel: Channel, change: Change, event: str, status: str, sender: str, detail: str = "") -> None:
        named: dict[str, Any] = {"channel": channel.value, "senderId": excerpt(sender)}
        more = {**named, "leftOut": change.left_out} if change.left_out else named
        with uninterrupted():
            self.audit.append(event, status=status, detail=detail, **more)
            try:
                change.commit()
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.audit.append("pairing.failed", status="failed", detail=f"{event}: {error.strerror}", **named)
                raise

    def _refuse(self, channel: Channel, action: str, detail: str, sender: str | None = None) -> NoReturn:
        named: dict[str, Any] = {"channel": channel.value}
        if sender is not None:
            named["senderId"] = excerpt(sender)
        self.audit.append("pairing.refused", status="refused", detail=detail, action=action, **named)
        raise StageFailed(detail)

    def _live(self, channel: Channel, requests: list[Request], moment: Moment) -> list[PendingRequest]:
        return [self._shown(channel, request, moment) for request in requests if self._time_left(request, moment) > 0]

    def _time_left(self, request: Request, moment: Moment) -> float:
        return time_left(request.begun, self._life_of(request), moment)

    def _life_of(self, request: Request) -> float:
        return self._life if request.life is None else min(request.life, self._life)

    def _shown(self, channel: Channel, request: Request, moment: Moment) -> PendingRequest:
        return PendingRequest(
            sender=person_of(channel, request.sender),
            code=request.code,
            requested_at=request.begun.wall,
            expires_at=request.begun.wall + timedelta(seconds=self._life_of(request)),
            age=age(request.begun, moment),
            time_left=self._time_left(request, moment),
        )


def _unknown_code(channel: Channel) -> str:
    where = f"`inv pairing.list {channel.value}` shows what is pending"
    return f"No {channel.value} request has this code: mistyped or used; {where}."


def _not_approved(channel: Channel, person: str) -> str:
    return f"{person} is not approved on {channel.value}, so there is nothing to revoke."
