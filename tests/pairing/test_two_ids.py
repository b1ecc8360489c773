"""A person with several ids on WhatsApp: any approved id admits, and a revocation counts for the person."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from release_tasks.config.schema import PairingConfig
from release_tasks.core.errors import StageFailed
from release_tasks.core.lock import FileLock
from release_tasks.pairing.channels import Channel, SenderRefused
from release_tasks.pairing.policy import Pairing
from release_tasks.pairing.store import StoreUnusable
from tests.support.clocks import Clocks

WHATSAPP = Channel.WHATSAPP
PHONE, SCOPED, PARENT = "15557000001", "US.13491208655302741918", "US.ENT.11815799212886844830"


def approve(pairing: Pairing, *ids: str) -> None:
    """Approve the request that a message with these ids creates."""
    request = pairing.request(WHATSAPP, *ids).request
    assert request is not None
    pairing.approve(WHATSAPP, request.code)


def events(pairing: Pairing, *names: str) -> list[tuple[str, str]]:
    verdict = pairing.audit.verify()
    assert verdict.intact
    return [(event["event"], event["senderId"]) for event in verdict.events if event["event"] in names]


@pytest.mark.parametrize("approved", [PHONE, SCOPED, PARENT])
def test_any_approved_id_admits(pairing: Pairing, approved: str, stored: Callable[[str], Any]) -> None:
    """The message is of the approved id, and no other id becomes approved."""
    approve(pairing, approved)
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED, PARENT]) == approved
    assert pairing.approved(WHATSAPP) == [approved]
    for other in {PHONE, SCOPED, PARENT} - {approved}:
        assert pairing.admitted(WHATSAPP, [other]) is None
    assert stored("whatsapp-allowFrom.json") == {"senderIds": [approved]}


def test_the_first_approved_id_is_the_sender(pairing: Pairing) -> None:
    """A phone number comes first in a message, and a spelling of it is the same number."""
    approve(pairing, SCOPED)
    approve(pairing, PHONE)
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    assert pairing.admitted(WHATSAPP, ["+1 555 700 0001", "not an id"]) == PHONE
    assert pairing.admitted(WHATSAPP, [PHONE, "120363@g.us"]) is None
    assert pairing.admitted(WHATSAPP, []) is None


def test_one_code_approves_the_ids_that_it_shows(pairing: Pairing, stored: Callable[[str], Any]) -> None:
    """The list shows both ids, and a later message with one of them is admitted."""
    outcome = pairing.request(WHATSAPP, PHONE, SCOPED)
    assert outcome.request is not None
    (request,) = pairing.pending(WHATSAPP)
    assert (request.sender, request.other_ids) == (PHONE, (SCOPED,))
    for ids in ((PHONE,), (SCOPED,), (SCOPED, PHONE)):
        again = pairing.request(WHATSAPP, *ids)
        assert (again.status, again.request) == ("repeated", outcome.request)
    approval = pairing.approve(WHATSAPP, outcome.request.code)
    assert (approval.sender, approval.other_ids, approval.was_approved) == (PHONE, (SCOPED,), False)
    assert pairing.admitted(WHATSAPP, [SCOPED]) == SCOPED and pairing.admitted(WHATSAPP, [PHONE]) == PHONE
    assert stored("whatsapp-allowFrom.json") == {"senderIds": [PHONE, SCOPED], "sameSender": [[PHONE, SCOPED]]}
    approved = [("pairing.approved", PHONE), ("pairing.approved", SCOPED)]
    assert events(pairing, "pairing.requested", "pairing.approved") == [("pairing.requested", PHONE), *approved]


def test_a_code_approves_no_id_that_it_does_not_show(pairing: Pairing) -> None:
    """A message with one more id gets another code."""
    first = pairing.request(WHATSAPP, PHONE).request
    second = pairing.request(WHATSAPP, PHONE, SCOPED).request
    assert first is not None and second is not None and first.code != second.code
    pairing.approve(WHATSAPP, first.code)
    assert pairing.approved(WHATSAPP) == [PHONE]
    assert pairing.pending(WHATSAPP) == []  # a message with both is admitted now


@pytest.mark.parametrize("revoked", [PHONE, SCOPED])
def test_a_revocation_counts_for_all_ids_of_a_request(pairing: Pairing, revoked: str) -> None:
    """The person is not admitted by the other id, not even in a message that shows only that id."""
    approve(pairing, PHONE, SCOPED)
    assert pairing.revoke(WHATSAPP, revoked) == revoked
    assert pairing.approved(WHATSAPP) == []
    for ids in ([PHONE], [SCOPED], [PHONE, SCOPED], [SCOPED, PARENT]):
        assert pairing.admitted(WHATSAPP, ids) is None
    assert sorted(events(pairing, "pairing.revoked")) == [("pairing.revoked", PHONE), ("pairing.revoked", SCOPED)]


@pytest.mark.parametrize(("revoked", "other"), [(PHONE, SCOPED), (SCOPED, PHONE)])
def test_a_revoked_id_outweighs_an_approved_one(pairing: Pairing, revoked: str, other: str) -> None:
    """Both were approved with codes of their own, and the service had never seen them in one message."""
    approve(pairing, revoked)
    approve(pairing, other)
    pairing.revoke(WHATSAPP, revoked)
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) is None
    # From the first message with both ids on, the approved id alone is not enough either.
    assert pairing.admitted(WHATSAPP, [other]) is None
    assert events(pairing, "pairing.linked") == [("pairing.linked", PHONE)]
    outcome = pairing.request(WHATSAPP, PHONE, SCOPED)
    assert outcome.status == "created" and outcome.request is not None
    assert f"{other} is approved, but {revoked} of the same sender was revoked" in str(pairing.audit.verify().events)
    assert [request.ids for request in pairing.pending(WHATSAPP)] == [(PHONE, SCOPED)]
    pairing.approve(WHATSAPP, outcome.request.code)
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    assert pairing.admitted(WHATSAPP, [other]) == other


def test_ids_that_were_approved_apart_are_linked_by_a_message(pairing: Pairing) -> None:
    """A revocation of one id then counts for the other, although no request showed both."""
    approve(pairing, PHONE)
    approve(pairing, SCOPED)
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    pairing.revoke(WHATSAPP, PHONE)
    assert pairing.admitted(WHATSAPP, [SCOPED]) is None
    assert pairing.approved(WHATSAPP) == []


def test_a_held_lock_delays_no_message(pairing: Pairing, credentials: Path) -> None:
    """The link is recorded by a later message."""
    approve(pairing, PHONE)
    approve(pairing, SCOPED)
    lock = FileLock(credentials / "whatsapp-pairing.lock")
    assert lock.acquire()
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    assert pairing.same_person(WHATSAPP) == {}
    lock.release()
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    assert pairing.same_person(WHATSAPP) == {PHONE: [SCOPED], SCOPED: [PHONE]}


def test_a_damaged_list_of_requests_delays_no_message(pairing: Pairing, put: Callable[[str, Any], Path]) -> None:
    """The link cannot be recorded, and both ids are approved."""
    put("whatsapp-allowFrom.json", {"senderIds": [PHONE, SCOPED]})
    put("whatsapp-pairing.json", b"{")
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE


def test_a_group_among_the_ids_is_refused(pairing: Pairing, credentials: Path) -> None:
    """Nothing is stored; an id that is merely invalid is left out."""
    with pytest.raises(SenderRefused):
        pairing.request(WHATSAPP, PHONE, "120363@g.us")
    assert not credentials.exists()
    outcome = pairing.request(WHATSAPP, PHONE, "nonsense")
    assert outcome.request is not None and outcome.request.ids == (PHONE,)


def test_an_approval_ends_the_revocation_of_the_person(pairing: Pairing) -> None:
    """The operator decides about the person: the number is admitted again, and the other id is not approved."""
    approve(pairing, PHONE, SCOPED)
    pairing.revoke(WHATSAPP, SCOPED)
    approve(pairing, PHONE)
    assert pairing.admitted(WHATSAPP, [PHONE]) == PHONE and pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE
    assert pairing.admitted(WHATSAPP, [SCOPED]) is None
    assert pairing.approved(WHATSAPP) == [PHONE]


def test_a_request_can_be_rejected_although_one_id_is_approved(pairing: Pairing) -> None:
    """The person is not admitted, so the operator may refuse the request."""
    approve(pairing, PHONE)
    approve(pairing, SCOPED)
    pairing.revoke(WHATSAPP, PHONE)
    request = pairing.request(WHATSAPP, PHONE, SCOPED).request
    assert request is not None
    assert pairing.reject(WHATSAPP, request.code) == PHONE
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) is None
    with pytest.raises(StageFailed):
        pairing.approve(WHATSAPP, request.code)


def test_an_approval_of_another_program_counts(pairing: Pairing, put: Callable[[str, Any], Path]) -> None:
    """It does not know the list of revocations, and an entry in its own list is a later decision."""
    put("whatsapp-allowFrom.json", {"senderIds": [PHONE], "revokedIds": [PHONE], "sameSender": [[PHONE, SCOPED]]})
    assert pairing.admitted(WHATSAPP, [PHONE, SCOPED]) == PHONE


def test_telegram_files_have_no_lists_of_ids(pairing: Pairing, stored: Callable[[str], Any]) -> None:
    """A person has one id there, and the file stays as another program wrote it."""
    request = pairing.request(Channel.TELEGRAM, "4711").request
    assert request is not None
    pairing.approve(Channel.TELEGRAM, request.code)
    pairing.revoke(Channel.TELEGRAM, "4711")
    assert stored("telegram-allowFrom.json") == {"senderIds": []}
    assert "otherIds" not in str(pairing.audit.verify().events)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"senderIds": [], "revokedIds": [1]}, "revokedIds.0"),
        ({"senderIds": [], "revokedIds": "15557000001"}, "revokedIds"),
        ({"senderIds": [], "revokedIds": None}, "revokedIds"),
        ({"senderIds": [], "sameSender": [PHONE]}, "sameSender.0"),
        ({"version": 1, "allowFrom": [], "sameSender": {}}, "sameSender"),
    ],
)
def test_an_invalid_list_of_ids_is_refused(
    pairing: Pairing, put: Callable[[str, Any], Path], content: Any, fault: str
) -> None:
    """A revocation that cannot be read must not be ignored."""
    put("whatsapp-allowFrom.json", content)
    with pytest.raises(StoreUnusable, match=fault):
        pairing.admitted(WHATSAPP, [PHONE, SCOPED])


def test_overlapping_groups_are_one_person(pairing: Pairing, put: Callable[[str, Any], Path]) -> None:
    """A hand-edited file may list the ids of a person in several groups, with spellings and invalid ids."""
    groups = [["+1 555 700 0001", SCOPED], [PARENT, PHONE], ["x"], [], ["US.2", "*"]]
    put("whatsapp-allowFrom.json", {"version": 1, "allowFrom": [PARENT], "sameSender": groups})
    pairing.revoke(WHATSAPP, SCOPED)
    assert pairing.approved(WHATSAPP) == []
    assert pairing.admitted(WHATSAPP, [PARENT]) is None


PEOPLE = {"15557000001": "A", "US.1": "A", "US.ENT.1": "A", "15557000002": "B", "US.2": "B", "15557000003": "C"}
IDS = st.sampled_from(
    [
        ("15557000001",),
        ("US.1",),
        ("15557000001", "US.1"),
        ("US.1", "US.ENT.1"),
        ("15557000001", "US.1", "US.ENT.1"),
        ("15557000002", "US.2"),
        ("US.2",),
        ("15557000003",),
    ]
)


class SeveralIds(RuleBasedStateMachine):
    """Messages, approvals and revocations of three people, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.pairing = Pairing(PairingConfig(credentials=Path(self.folder.name), max_pending=100), Clocks())
        self.approved: set[str] = set()
        self.revoked_people: set[str] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(ids=IDS)
    def approve(self, ids: tuple[str, ...]) -> None:
        request = self.pairing.request(WHATSAPP, *ids).request
        if request is not None:
            approval = self.pairing.approve(WHATSAPP, request.code)
            self.approved |= {approval.sender, *approval.other_ids}
            self.revoked_people.discard(PEOPLE[ids[0]])

    @rule(sender=st.sampled_from(sorted(PEOPLE)))
    def revoke(self, sender: str) -> None:
        try:
            self.pairing.revoke(WHATSAPP, sender)
        except StageFailed:
            return
        self.revoked_people.add(PEOPLE[sender])
        self.approved = set(self.pairing.approved(WHATSAPP))
        assert sender not in self.approved

    @rule(ids=IDS)
    def receive(self, ids: tuple[str, ...]) -> None:
        sender = self.pairing.admitted(WHATSAPP, ids)
        assert sender is None or (sender in ids and sender in self.approved)

    @invariant()
    def only_explicit_approvals_exist(self) -> None:
        assert set(self.pairing.approved(WHATSAPP)) == self.approved

    @invariant()
    def no_group_joins_two_people(self) -> None:
        for sender, others in self.pairing.same_person(WHATSAPP).items():
            assert {PEOPLE[other] for other in others} == {PEOPLE[sender]}

    @invariant()
    def a_revoked_person_is_not_admitted_with_all_ids(self) -> None:
        for person in self.revoked_people:
            ids = [sender for sender, owner in PEOPLE.items() if owner == person]
            assert self.pairing.admitted(WHATSAPP, ids) is None, json.dumps(ids)


TestSeveralIds = SeveralIds.TestCase
TestSeveralIds.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
