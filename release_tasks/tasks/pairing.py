"""The collection ``pairing``: an operator approves the senders who may write to the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from invoke import Context

from release_tasks.core.errors import StageFailed
from release_tasks.core.typed import typed
from release_tasks.tasks.executor import stage
from release_tasks.tasks.listing import FilteredCollection
from release_tasks.tasks.release import answer_audit
from release_tasks.tasks.session import Session, session

if TYPE_CHECKING:
    from release_tasks.pairing.channels import Channel
    from release_tasks.pairing.policy import Pairing, PendingRequest

__all__ = ["collection"]

_MAX_IGNORED = 20
_CHANNEL_HELP = "The channel: telegram or whatsapp."
_CODE_HELP = "The code that the sender received; in any case, with or without spaces and dashes."


@stage(
    name="list",
    help={"channel": _CHANNEL_HELP, "approved": "Show the approved senders, not the pending requests."},
)
def list_(ctx: Context, channel: str, approved: bool = False, json: bool = False) -> None:
    """Show the pending requests of a channel with code, age and remaining time, or the approved senders."""
    with session(ctx, json) as current:
        chosen, pairing = _opened(current, channel)
        if approved:
            _show_approved(current, chosen, pairing)
        else:
            _show_pending(current, chosen, pairing.pending(chosen))


@stage(help={"channel": _CHANNEL_HELP, "code": _CODE_HELP})
def approve(ctx: Context, channel: str, code: str, json: bool = False) -> None:
    """Approve the sender whose pending request has this code; effective immediately in a running service."""
    with session(ctx, json) as current:
        chosen, pairing = _opened(current, channel)
        if not _may_decide(current, chosen, "approve", lambda: pairing.lookup(chosen, code)):
            return
        found = pairing.approve(chosen, code)
        before = " already" if found.was_approved else ""
        verb = "were" if found.other_ids else "was"
        message = f"{_shown(found.sender, *found.other_ids)} {verb}{before} approved on {chosen.value}."
        more = {"otherIds": list(found.other_ids)} if found.other_ids else {}
        _show_decision(current, chosen, "approved", found.sender, message, wasAdmitted=found.was_approved, **more)


@stage(help={"channel": _CHANNEL_HELP, "code": _CODE_HELP})
def reject(ctx: Context, channel: str, code: str, json: bool = False) -> None:
    """Remove the pending request that has this code; its sender stays blocked and may request again."""
    with session(ctx, json) as current:
        chosen, pairing = _opened(current, channel)
        if not _may_decide(current, chosen, "reject", lambda: pairing.lookup(chosen, code)):
            return
        sender = pairing.reject(chosen, code)
        message = f"The request of {_shown(sender)} on {chosen.value} was removed."
        _show_decision(current, chosen, "rejected", sender, message)


@stage(
    help={
        "channel": _CHANNEL_HELP,
        "sender": "The sender as `pairing.list CHANNEL --approved` shows it.",
    }
)
def revoke(ctx: Context, channel: str, sender: str, json: bool = False) -> None:
    """Revoke an approval; a running service blocks the sender, with all known ids, from the next message on."""
    with session(ctx, json) as current:
        chosen, pairing = _opened(current, channel)
        if not _may_decide(current, chosen, "revoke", lambda: pairing.lookup_approved(chosen, sender)):
            return
        revoked = pairing.revoke(chosen, sender)
        message, others = f"{revoked} is now blocked on {chosen.value}.", pairing.same_person(chosen).get(revoked, [])
        if others:
            message += f" The other ids of the same sender are blocked, too: {_shown(*others)}."
        _show_decision(current, chosen, "revoked", revoked, message, **({"otherIds": others} if others else {}))


@stage(help={"limit": "Show this many of the latest events."})
def audit(ctx: Context, limit: str = "20", json: bool = False) -> None:
    """Verify the chain of the pairing audit log and show its latest events; exit 1 when it is broken."""
    with session(ctx, json) as current:
        from release_tasks.pairing.policy import Pairing

        answer_audit(current, limit, lambda: Pairing(current.settings.pairing).audit.verify())


def _opened(current: Session, channel: str) -> tuple[Channel, Pairing]:
    from release_tasks.pairing.channels import parse_channel
    from release_tasks.pairing.policy import Pairing

    return parse_channel(channel), Pairing(current.settings.pairing)


def _may_decide(current: Session, channel: Channel, action: str, lookup: Callable[[], str]) -> bool:
    """Return whether a decision may be carried out; a dry run only shows the sender that ``lookup`` returns.

    Raises StageFailed after an interrupted rollback, whose recovery would overwrite the decision.
    """
    from release_tasks.stages.rollback.amendment import covers_pairing

    if current.is_dry:
        sender = lookup()
        current.answer(
            {"status": "dry", "channel": channel.value, "action": action, "sender": sender},
            lambda screen: screen.line(f"Would {action} {_shown(sender)} on {channel.value}."),
        )
        return False
    if covers_pairing(current.settings) and current.pipeline.has_journal():
        raise StageFailed(
            "A rollback that restores the pairing stores was interrupted. "
            f"Run `{typed('release.recover')}`, then repeat this command."
        )
    return True


def _show_pending(current: Session, channel: Channel, requests: list[PendingRequest]) -> None:
    from release_tasks.core.clock import timestamp
    from release_tasks.core.units import rough_span

    shown = [
        {
            "code": request.code,
            "sender": request.sender,
            "otherIds": list(request.other_ids),
            "requestedAt": timestamp(request.requested_at),
            "expiresAt": timestamp(request.expires_at),
            "ageSeconds": int(request.age),
            "timeLeftSeconds": int(request.time_left),
        }
        for request in requests
    ]
    current.answer({"status": "done", "channel": channel.value, "requests": shown})
    if current.as_json:
        return
    rows = [(_shown(r.code), _shown(*r.ids), rough_span(r.age), rough_span(r.time_left)) for r in requests]
    current.screen.table(("CODE", "SENDER", "AGE", "TIME LEFT"), rows)
    if rows:
        current.screen.line(f"Approve one: {typed('pairing.approve', channel.value, 'CODE')}")
    else:
        current.screen.line(f"There are no pending requests on {channel.value}.")


def _show_approved(current: Session, channel: Channel, pairing: Pairing) -> None:
    senders, persons, ignored = pairing.approved(channel), pairing.same_person(channel), pairing.ignored(channel)
    document = {
        "status": "done",
        "channel": channel.value,
        "approved": senders,
        "otherIds": {sender: persons[sender] for sender in senders if sender in persons},
        "ignored": [{"entry": entry.entry, "reason": entry.reason} for entry in ignored],
    }
    current.answer(document)
    if current.as_json:
        return
    columns = ("SENDER", "OTHER IDS OF THE SENDER") if document["otherIds"] else ("SENDER",)
    rows = [(sender, _shown(*persons.get(sender, ())))[: len(columns)] for sender in senders]
    current.screen.table(columns, rows)
    if not senders:
        current.screen.line(f"There are no approved senders on {channel.value}.")
    if ignored:
        entries = "1 entry" if len(ignored) == 1 else f"{len(ignored)} entries"
        current.screen.line(f"{entries} of {pairing.approved_path(channel)} approve no sender:")
        for entry in ignored[:_MAX_IGNORED]:
            current.screen.note(f"{_shown(entry.entry)!r}: {entry.reason}")
        if len(ignored) > _MAX_IGNORED:
            current.screen.note(f"... and {len(ignored) - _MAX_IGNORED} more; `--json` lists all.")


def _shown(*ids: str) -> str:
    """Return ids of a store for a person, on one line: another program may have written control characters."""
    from release_tasks.core.canonical import excerpt_line

    return ", ".join(map(excerpt_line, ids))


def _show_decision(current: Session, channel: Channel, status: str, sender: str, message: str, **more: Any) -> None:
    document = {"status": status, "channel": channel.value, "sender": sender, **more}
    current.answer(document, lambda screen: screen.verdict(status, message))


# A gateway always has pairing, with or without a section of its own.
collection = FilteredCollection("pairing", lambda _, configured: bool({"pairing", "gateway"} & configured.sections))
for _task in (list_, approve, reject, revoke, audit):
    collection.add_task(_task)
