"""The audit log as far as it concerns one release, and whether its chain holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from release_tasks.core.audit import AuditVerdict
from release_tasks.report.html.notifications import number, text, tone_of
from release_tasks.report.html.page import AuditTrail, Event

__all__ = ["events_of", "trail_of"]

_MOST_EVENTS = 50
_MOST_FINDINGS = 20


def events_of(
    events: Sequence[dict[str, Any]], release_id: str, snapshot_id: str | None, rollback_ids: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the events that name this release, its snapshot, or one of its rollbacks."""
    return [
        event
        for event in events
        if event.get("releaseId") == release_id
        or (snapshot_id is not None and snapshot_id in (event.get("snapshotId"), event.get("requestedSnapshot")))
        or (isinstance(event.get("rollbackId"), str) and event["rollbackId"] in rollback_ids)
    ]


def trail_of(verdict: AuditVerdict, concerning: Sequence[dict[str, Any]]) -> AuditTrail:
    """Return the state of the chain and the newest of the events that concern the release."""
    count = f"{len(verdict.events)} event{'' if len(verdict.events) == 1 else 's'}"
    if verdict.intact:
        word, sentence = "intact", f"The chain of {count} holds, and every recorded position is in it."
    else:
        word = "broken"
        sentence = f"The log was altered or cut; what it says is not certain. It holds {count}."
    return AuditTrail(
        tone=tone_of(word),
        word=word,
        sentence=sentence,
        problems=[text(str(finding), 500) for finding in verdict.problems[:_MOST_FINDINGS]],
        notes=[text(str(finding), 500) for finding in verdict.notes[:_MOST_FINDINGS]],
        events=[_event(event) for event in list(reversed(concerning))[:_MOST_EVENTS]],
        more=max(len(concerning) - _MOST_EVENTS, 0),
    )


def _event(event: dict[str, Any]) -> Event:
    status = text(event.get("status"), 40)
    return Event(
        seq=number(event.get("seq")) or 0,
        at=text(event.get("time"), 40),
        event=text(event.get("event"), 60),
        status=status,
        tone=tone_of(status),
        concerns=text(event.get("snapshotId") or event.get("requestedSnapshot") or event.get("releaseId"), 200),
        actor=f"{text(event.get('actor'), 64)}@{text(event.get('host'), 64)}",
        detail=text(event.get("detail"), 300),
        hash=text(event.get("hash"), 64),
    )
