"""The approvals that a rollback may restore: a sender who was revoked since the snapshot stays revoked.

A rollback writes its pairing events before it changes the store. Such an event counts only if the rollback that it
names took effect.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from attrs import field, frozen

from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import InvalidDocument, excerpt, parse_object, pretty_bytes
from release_tasks.core.records import AuditAnchor
from release_tasks.pairing.channels import Channel, is_shared_id, sender_of
from release_tasks.pairing.dialects import NO_PERSONS, PLAIN, ApprovedDocument, Persons

__all__ = ["EMPTIED", "RETURNED", "WITHDRAWN", "History", "RestoredStore", "read_history", "restore_store"]

WITHDRAWN = "pairing.withdrawn"
RETURNED = "pairing.returned"
EMPTIED = "pairing.emptied"
_ROLLBACK_EVENTS = (WITHDRAWN, RETURNED, EMPTIED)

_SenderKey = tuple[str, str]  # channel and sender, as in the events


class _Decision(enum.Enum):
    APPROVED = "approved"
    WITHDRAWN = "withdrawn"  # by a rollback, so another rollback may restore it
    REVOKED = "revoked"


@frozen(kw_only=True)
class History:
    """The last decision about each sender in the pairing log.

    ``partial``: the chain is intact, but it was restarted and does not cover earlier events. ``emptied`` names the
    channels whose approvals a rollback removed completely, without a later approval.
    """

    status: Literal["intact", "partial", "missing", "broken"]
    decisions: Mapping[_SenderKey, _Decision | None] = field(factory=dict)
    emptied: Collection[str] = ()


@frozen(kw_only=True)
class RestoredStore:
    """The approvals of one channel after a rollback; the lists contain normalised senders, sorted.

    ``data`` is the content of the file, None without a file. The rollback removes two groups from the snapshot's list:
    the senders in ``excluded``, who are no longer approved, and the ids in ``shared_ids``, which belong to more than
    one person. The senders in ``withdrawn`` lose their approval, because the snapshot does not contain it; the senders
    in ``returned`` get it back. ``is_emptied``: the rollback removes the list of approvals.
    ``has_unknown_revocations``: the revocations since the snapshot are unknown, so no approval is restored.
    """

    data: bytes | None
    excluded: list[str] = field(factory=list)
    shared_ids: list[str] = field(factory=list)
    withdrawn: list[str] = field(factory=list)
    returned: list[str] = field(factory=list)
    is_emptied: bool = False
    has_unknown_revocations: bool = False


def read_history(audit: AuditLog, stored: AuditAnchor | None, effective_rollbacks: Collection[str]) -> History:
    """Read the live pairing log, which must continue from ``stored``, the anchor of the log in the snapshot.

    Only the rollbacks in ``effective_rollbacks`` count.
    """
    if not audit.path.exists() and not audit.path.is_symlink():
        return History(status="missing")
    try:
        verdict = audit.verify([("the snapshot", stored)] if stored is not None else [])
    except OSError:
        return History(status="broken")
    if not verdict.intact:
        return History(status="broken")
    is_partial = any(event.get("event") == "audit.adopted" for event in verdict.events)
    decisions, emptied = _decisions(
        event
        for event in verdict.events
        if event.get("event") not in _ROLLBACK_EVENTS or str(event.get("rollbackId")) in effective_rollbacks
    )
    return History(status="partial" if is_partial else "intact", decisions=decisions, emptied=emptied)


def _decisions(events: Iterable[Mapping[str, Any]]) -> tuple[dict[_SenderKey, _Decision | None], set[str]]:
    """Return the last decision about each sender, and the channels that a rollback emptied."""
    decisions: dict[_SenderKey, _Decision | None] = {}
    previous: dict[_SenderKey, _Decision | None] = {}
    emptied: set[str] = set()
    for event in events:
        name, channel = event.get("event"), str(event.get("channel"))
        key, decision = (channel, str(event.get("senderId"))), _decision_of(event)
        if name == EMPTIED:
            emptied.add(channel)
        elif name == "pairing.failed" and str(event.get("detail")).startswith("pairing.approved"):
            decisions[key] = previous.get(key)  # the approval was not written
        elif decision is not None:
            previous[key] = decisions.get(key)
            decisions[key] = decision
            if decision is _Decision.APPROVED:
                emptied.discard(channel)
    return decisions, emptied


def _decision_of(event: Mapping[str, Any]) -> _Decision | None:
    name = event.get("event")
    if name in ("pairing.approved", RETURNED):
        return _Decision.APPROVED
    if name == WITHDRAWN:
        return _Decision.WITHDRAWN
    # An attempted revocation counts too: a failed one may have changed the store, and a refused one came after a
    # rollback had removed the approval.
    if name in ("pairing.revoked", "pairing.rejected"):
        return _Decision.REVOKED
    if name == "pairing.refused" and event.get("action") == "revoke":
        return _Decision.REVOKED
    return None


def restore_store(
    channel: Channel,
    stored: bytes | None,
    live: list[str] | None,
    history: History,
    name: str,
    live_persons: Persons = NO_PERSONS,
) -> RestoredStore:
    """Return the approvals of ``channel`` that a rollback may restore.

    ``stored`` is the file in the snapshot, None without a file; ``name`` is its name in messages. ``live`` are the live
    entries, None if they cannot be read, and ``live_persons`` the live revocations and groups of ids, which are never
    rolled back. A file that is not a valid store is restored unchanged: it approves no sender.
    """
    had_list = live is not None
    if live is None and channel.value in history.emptied:
        live = []
    approved = {sender_of(channel, entry) for entry in live or [] if not is_shared_id(channel, entry)}
    document = None
    if stored is not None:
        with contextlib.suppress(InvalidDocument):
            document = ApprovedDocument.parse(parse_object(stored, name), name)
    if document is None:
        data = stored if stored is not None else _without_entries(live_persons)
        return RestoredStore(data=data, withdrawn=sorted(approved), is_emptied=had_list)
    shared_ids = [entry for entry in document.entries if is_shared_id(channel, entry)]
    senders = {entry: sender_of(channel, entry) for entry in document.entries if entry not in shared_ids}
    restored = {sender for sender in senders.values() if _may_restore(channel, sender, live, approved, history)}
    entries = [entry for entry in document.entries if senders.get(entry) in restored]
    persons = document.persons.merged(live_persons).merged(_revoked_in(channel, history))
    is_changed = (entries, persons) != (document.entries, document.persons)
    document.entries, document.persons = entries, persons
    return RestoredStore(
        data=pretty_bytes(document.value()) if is_changed else stored,
        excluded=sorted(set(senders.values()) - restored),
        shared_ids=sorted(set(shared_ids)),
        withdrawn=sorted(approved - set(senders.values())),
        returned=sorted(restored - approved),
        has_unknown_revocations=live is None and history.status != "intact" and bool(senders),
    )


def _without_entries(persons: Persons) -> bytes | None:
    """Return a file that approves no sender and keeps the revocations, or None without any."""
    if not persons.revoked:
        return None
    return pretty_bytes(ApprovedDocument(PLAIN, [], PLAIN.header(), persons).value())


def _revoked_in(channel: Channel, history: History) -> Persons:
    """Return the revocations in the log, which another program may have removed from the live file."""
    if not channel.has_several_ids:
        return NO_PERSONS
    revoked = [sender for (name, sender), decision in history.decisions.items() if _is_revoked(name, channel, decision)]
    return Persons(revoked=tuple(revoked)) if revoked else NO_PERSONS


def _is_revoked(name: str, channel: Channel, decision: _Decision | None) -> bool:
    return name == channel.value and decision is _Decision.REVOKED


def _may_restore(channel: Channel, sender: str, live: list[str] | None, approved: set[str], history: History) -> bool:
    decision = history.decisions.get((channel.value, excerpt(sender)))
    if live is None:
        return history.status == "intact" and decision is not _Decision.REVOKED
    return sender in approved or decision is _Decision.WITHDRAWN
