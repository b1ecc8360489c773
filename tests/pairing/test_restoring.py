"""The history of each sender in the pairing log, and the approvals that a restored store retains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from release_tasks.core.audit import AuditLog
from release_tasks.core.records import AuditAnchor
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.dialects import NO_PERSONS, Persons
from release_tasks.pairing.restoring import History, read_history, restore_store

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP
DONE, UNDONE = {"rollbackId": "done"}, {"rollbackId": "undone"}


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "pairing-audit.log")


def write(log: AuditLog, *events: tuple[str, dict[str, Any]]) -> None:
    for event, more in events:
        log.append(event, status="noted", **{"channel": "telegram", "senderId": "1001", **more})


def history_of(log: AuditLog, stored: AuditAnchor | None = None) -> History:
    return read_history(log, stored, {"done"})


def kept(history: History, live: list[str] | None, *senders: str, channel: Channel = TELEGRAM) -> list[str]:
    stored = json.dumps({"senderIds": list(senders)}).encode()
    restored = restore_store(channel, stored, live, history, "the store")
    assert restored.data is not None
    left: list[str] = json.loads(restored.data)["senderIds"]
    return left


LogEvent = tuple[str, dict[str, Any]]
APPROVED: LogEvent = ("pairing.approved", {})
REVOKED: LogEvent = ("pairing.revoked", {})
REQUESTED: LogEvent = ("pairing.requested", {})
WITHDRAWN, RETURNED = ("pairing.withdrawn", DONE), ("pairing.returned", DONE)

# Events, whether the sender is retained when the live list lacks it, and whether it is when there is no live list.
LAST_WORDS = [
    ([], False, True),
    ([APPROVED], False, True),
    ([APPROVED, REVOKED], False, False),
    ([REVOKED, APPROVED], False, True),
    ([APPROVED, WITHDRAWN], True, True),
    ([WITHDRAWN, REQUESTED], True, True),
    ([WITHDRAWN, RETURNED], False, True),
    ([WITHDRAWN, REVOKED], False, False),
    ([REVOKED, WITHDRAWN], True, True),
    ([WITHDRAWN, ("pairing.rejected", {})], False, False),
    ([WITHDRAWN, ("pairing.refused", {"action": "revoke"})], False, False),
    ([WITHDRAWN, ("pairing.refused", {"action": "approve"})], True, True),
    # Events of a rollback that never took effect.
    ([APPROVED, ("pairing.withdrawn", UNDONE)], False, True),
    ([REVOKED, ("pairing.returned", UNDONE)], False, False),
    ([WITHDRAWN, ("pairing.returned", UNDONE)], True, True),
    ([("pairing.withdrawn", {})], False, True),
    # A decision that could not be written: an approval does not count, a revocation does.
    ([REVOKED, APPROVED, ("pairing.failed", {"detail": "pairing.approved: No space left"})], False, False),
    ([APPROVED, REVOKED, ("pairing.failed", {"detail": "pairing.revoked: No space left"})], False, False),
    # Events of another sender.
    ([REVOKED, ("pairing.approved", {"senderId": "1002"})], False, False),
    ([REVOKED, ("pairing.approved", {"channel": "whatsapp"})], False, False),
    ([APPROVED, ("pairing.revoked", {"channel": "whatsapp"})], False, True),
]


@pytest.mark.parametrize(("events", "without_entry", "without_list"), LAST_WORDS)
def test_the_last_event_of_a_sender_counts(
    log: AuditLog, events: list[Any], without_entry: bool, without_list: bool
) -> None:
    """A sender who is approved live is always retained."""
    write(log, *events)
    history = history_of(log)
    assert kept(history, ["1001"], "1001") == ["1001"]
    assert kept(history, [], "1001") == (["1001"] if without_entry else [])
    if events:
        assert kept(history, None, "1001") == (["1001"] if without_list else [])


def test_a_list_removed_by_a_rollback_is_empty(log: AuditLog) -> None:
    """This holds until the next approval on that channel; after it, a missing list was lost."""
    write(log, APPROVED, ("pairing.emptied", DONE), ("pairing.approved", {"channel": "whatsapp"}))
    assert kept(history_of(log), None, "1001") == []
    assert kept(history_of(log), None, "15551234567", channel=WHATSAPP) == ["15551234567"]
    write(log, ("pairing.approved", {"senderId": "1002"}))
    assert kept(history_of(log), None, "1001", "1002") == ["1001", "1002"]


def test_a_list_of_an_undone_rollback_was_lost(log: AuditLog) -> None:
    """The list existed afterwards, so it is missing for another reason."""
    write(log, APPROVED, ("pairing.emptied", UNDONE))
    assert kept(history_of(log), None, "1001") == ["1001"]


def test_a_log_that_does_not_continue_the_snapshots_is_broken(log: AuditLog, tmp_path: Path) -> None:
    """A truncated or restarted log has a valid chain and may lack a revocation."""
    write(log, APPROVED, APPROVED)
    stored = log.anchor()
    assert history_of(log, stored).status == "intact"
    log.path.unlink()
    assert history_of(log, stored).status == "missing"
    write(log, APPROVED, APPROVED, APPROVED)
    assert history_of(log).status == "intact"
    assert history_of(log, stored).status == "broken"


def test_a_log_after_unknown_content_proves_nothing_without_a_list(log: AuditLog) -> None:
    """The content before the chain may have had revocations."""
    log.path.write_text("notes of the operator\n")
    write(log, APPROVED, WITHDRAWN)
    history = history_of(log)
    assert history.status == "partial"
    assert kept(history, [], "1001") == ["1001"]
    assert kept(history, None, "1001") == []


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_folder_or_link_instead_of_the_log_is_broken(log: AuditLog, what: str) -> None:
    """A folder, or a link, also a dangling one."""
    if what == "folder":
        log.path.mkdir()
    else:
        log.path.symlink_to("nowhere")
    assert history_of(log).status == "broken"


SPELLINGS = ["15551234567", "+1 555 123 4567", "15551234567@s.whatsapp.net", "15551234567:3@s.whatsapp.net"]


@pytest.mark.parametrize("stored", SPELLINGS)
@pytest.mark.parametrize("live", SPELLINGS)
def test_a_sender_is_the_same_in_every_spelling(stored: str, live: str) -> None:
    """A number and the same digits with @lid are two senders."""
    empty = History(status="intact")
    restored = restore_store(
        WHATSAPP, json.dumps({"senderIds": [stored, "15551234567@lid"]}).encode(), [live], empty, "the store"
    )
    assert json.loads(restored.data or b"")["senderIds"] == [stored]
    assert restored.excluded == ["15551234567@lid"] and restored.withdrawn == []


def test_a_store_that_loses_no_sender_keeps_its_bytes() -> None:
    """Order and spelling are those of the program that wrote it."""
    stored = b'{"senderIds":["1002",  "1001"]}'
    restored = restore_store(TELEGRAM, stored, ["1001", "1002"], History(status="intact"), "the store")
    assert restored.data == stored


senders = st.lists(st.sampled_from(["1001", "1002", "1003", "@name", "*", "-100", "007", ""]), max_size=8)


@given(
    stored=senders,
    live=st.none() | senders,
    events=st.lists(
        st.tuples(st.sampled_from(["approved", "revoked", "rejected"]), st.sampled_from(["1001", "1002", "1003"])),
        max_size=6,
    ),
    status=st.sampled_from(["intact", "missing", "broken"]),
)
def test_a_revoked_sender_is_never_admitted_again(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[str],
    live: list[str] | None,
    events: list[tuple[str, str]],
    status: str,
) -> None:
    """Every restored sender is in the snapshot, is not a shared id, and is live or not revoked."""
    history = History(status=status)  # type: ignore[arg-type]
    if status == "intact":
        log = AuditLog(tmp_path_factory.mktemp("log") / "log")
        write(log, *((f"pairing.{event}", {"senderId": sender}) for event, sender in events))
        history = history_of(log)
    left = kept(history, live, *stored)
    assert set(left) <= set(stored) - {"*", "-100"}
    last = {sender: event for event, sender in events}
    for sender in left:
        assert sender in (live or []) or (live is None and last.get(sender, "approved") == "approved")
        assert live is not None or (status == "intact" and events)


PHONE, SCOPED = "15557000001", "US.13491208655302741918"


def restored_document(
    stored: dict[str, Any] | None, live: list[str] | None, history: History, persons: Persons = NO_PERSONS
) -> dict[str, Any]:
    data = None if stored is None else json.dumps(stored).encode()
    restored = restore_store(WHATSAPP, data, live, history, "the store", persons)
    assert restored.data is not None
    document: dict[str, Any] = json.loads(restored.data)
    return document


def test_revocations_of_the_live_file_are_never_rolled_back() -> None:
    """The other id was approved at the time of the snapshot and still is: the revoked one must outweigh it."""
    live = Persons(revoked=(PHONE,), groups=((PHONE, SCOPED),))
    stored = {"senderIds": [SCOPED], "revokedIds": ["US.9"], "other": 1}
    assert restored_document(stored, [SCOPED], History(status="intact"), live) == {
        **stored,
        "revokedIds": [PHONE, "US.9"],
        "sameSender": [[PHONE, SCOPED]],
    }


@pytest.mark.parametrize("live", [None, [SCOPED]])
def test_revocations_of_the_log_count_without_those_of_the_file(log: AuditLog, live: list[str] | None) -> None:
    """Another program has rewritten the file without them, or it cannot be read."""
    write(
        log, *((event, {"channel": "whatsapp", "senderId": PHONE}) for event in ("pairing.approved", "pairing.revoked"))
    )
    assert restored_document({"senderIds": [SCOPED]}, live, history_of(log)) == {
        "senderIds": [SCOPED],
        "revokedIds": [PHONE],
    }


def test_revocations_survive_a_snapshot_without_a_file() -> None:
    """The file of the rollback approves no sender; without revocations there is no file."""
    live = Persons(revoked=(PHONE, SCOPED))
    restored = restore_store(WHATSAPP, None, [], History(status="intact"), "the store", live)
    assert json.loads(restored.data or b"") == {"senderIds": [], "revokedIds": [PHONE, SCOPED]}
    assert restored.is_emptied
    groups = Persons(groups=((PHONE, SCOPED),))
    assert restore_store(WHATSAPP, None, [], History(status="intact"), "the store", groups).data is None


def test_a_store_with_all_revocations_keeps_its_bytes() -> None:
    """Also when the snapshot has more of them than the live file."""
    stored = b'{"senderIds":["US.1"], "revokedIds":["15557000002","15557000001"]}'
    live = Persons(revoked=(PHONE,))
    assert restore_store(WHATSAPP, stored, ["US.1"], History(status="intact"), "the store", live).data == stored
