"""Which approvals a store that a rollback restores may keep: a sender who was revoked since stays revoked.

A rollback writes what it does to approvals into the pairing log before it is certain to happen. Such an event counts
only when the rollback that it names took effect.
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
from release_tasks.pairing.channels import Channel, is_shared_id, person_of
from release_tasks.pairing.dialects import ApprovedDocument

__all__ = ["EMPTIED", "RETURNED", "WITHDRAWN", "History", "RestoredStore", "read_history", "restore_store"]

WITHDRAWN = "pairing.withdrawn"
RETURNED = "pairing.returned"
EMPTIED = "pairing.emptied"
_BY_ROLLBACK = (WITHDRAWN, RETURNED, EMPTIED)

_Who = tuple[str, str]  # channel and sender, as events name them


class _Decision(enum.Enum):
    APPROVED = "approved"
    WITHDRAWN = "withdrawn"  # by a rollback, so another one may give it back
    REVOKED = "revoked"


@frozen(kw_only=True)
class History:
    """What the pairing log says was decided last about each sender, by channel and sender as events name them.

    ``partial``: the chain holds, but it was begun anew over something that it does not know. ``emptied`` names the
    channels whose approvals a rollback took away as a whole, with no approval since.
    """

    status: Literal["intact", "partial", "missing", "broken"]
    decisions: Mapping[_Who, _Decision | None] = field(factory=dict)
    emptied: Collection[str] = ()


@frozen(kw_only=True)
class RestoredStore:
    """The approvals of one channel after a rollback; the senders in the lists are normalised and sorted.

    ``data`` is the file, None where there is none. ``left_out`` are in the snapshot and not approved any more,
    ``shared_ids`` stand for more than one person. ``withdrawn`` lose their approval because the snapshot
    does not hold it, ``returned`` get it back. ``is_emptied``: no list of approvals is left where there was one.
    ``is_blind``: it is unknown who was revoked since, so no approval was kept.
    """

    data: bytes | None
    left_out: list[str] = field(factory=list)
    shared_ids: list[str] = field(factory=list)
    withdrawn: list[str] = field(factory=list)
    returned: list[str] = field(factory=list)
    is_emptied: bool = False
    is_blind: bool = False


def read_history(audit: AuditLog, stored: AuditAnchor | None, took_effect: Collection[str]) -> History:
    """Read the live pairing log; ``stored`` is where the snapshot's own log stood, and it must go on from there.

    ``took_effect`` names the rollbacks whose events count.
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
        if event.get("event") not in _BY_ROLLBACK or str(event.get("rollbackId")) in took_effect
    )
    return History(status="partial" if is_partial else "intact", decisions=decisions, emptied=emptied)


def _decisions(events: Iterable[Mapping[str, Any]]) -> tuple[dict[_Who, _Decision | None], set[str]]:
    """Return what was decided last about each sender, and the channels that a rollback emptied."""
    decisions: dict[_Who, _Decision | None] = {}
    before: dict[_Who, _Decision | None] = {}
    emptied: set[str] = set()
    for event in events:
        name, channel = event.get("event"), str(event.get("channel"))
        who, decision = (channel, str(event.get("senderId"))), _decision_of(event)
        if name == EMPTIED:
            emptied.add(channel)
        elif name == "pairing.failed" and str(event.get("detail")).startswith("pairing.approved"):
            decisions[who] = before.get(who)  # an approval that was not written is none
        elif decision is not None:
            before[who] = decisions.get(who)
            decisions[who] = decision
            if decision is _Decision.APPROVED:
                emptied.discard(channel)
    return decisions, emptied


def _decision_of(event: Mapping[str, Any]) -> _Decision | None:
    name = event.get("event")
    if name in ("pairing.approved", RETURNED):
        return _Decision.APPROVED
    if name == WITHDRAWN:
        return _Decision.WITHDRAWN
    # A revocation counts from the wish on: one that failed may have changed the store all the same, and one that was
    # refused came when a rollback had taken the approval away already.
    if name in ("pairing.revoked", "pairing.rejected"):
        return _Decision.REVOKED
    if name == "pairing.refused" and event.get("action") == "revoke":
        return _Decision.REVOKED
    return None


def restore_store(
    channel: Channel, stored: bytes | None, live: list[str] | None, history: History, name: str
) -> RestoredStore:
    """Return the approvals of ``channel`` as a rollback may restore them.

    ``stored`` is the snapshot's file, None where it has none; ``name`` is what messages call it. ``live`` are the
    entries that count now, None where no list can be read. A file that is not a store comes back as it is: no
    sender is admitted by it.
    """
    was_listed = live is not None
    if live is None and channel.value in history.emptied:
        live = []
    approved = {person_of(channel, entry) for entry in live or [] if not is_shared_id(channel, entry)}
    document = None
    if stored is not None:
        with contextlib.suppress(InvalidDocument):
            document = ApprovedDocument.parse(parse_object(stored, name), name)
    if document is None:
        return RestoredStore(data=stored, withdrawn=sorted(approved), is_emptied=was_listed)
    shared_ids = [entry for entry in document.entries if is_shared_id(channel, entry)]
    people = {entry: person_of(channel, entry) for entry in document.entries if entry not in shared_ids}
    kept = {person for person in people.values() if _is_kept(channel, person, live, approved, history)}
    entries = [entry for entry in document.entries if people.get(entry) in kept]
    is_changed = len(entries) < len(document.entries)
    if is_changed:
        document.entries = entries
    return RestoredStore(
        data=pretty_bytes(document.value()) if is_changed else stored,
        left_out=sorted(set(people.values()) - kept),
        shared_ids=sorted(set(shared_ids)),
        withdrawn=sorted(approved - set(people.values())),
        returned=sorted(kept - approved),
        is_blind=live is None and history.status != "intact" and bool(people),
    )


def _is_kept(channel: Channel, person: str, live: list[str] | None, approved: set[str], history: History) -> bool:
    decision = history.decisions.get((channel.value, excerpt(person)))
    if live is None:
        return history.status == "intact" and decision is not _Decision.REVOKED
    return person in approved or decision is _Decision.WITHDRAWN
