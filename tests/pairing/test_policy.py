"""Who is admitted, how long a code is valid, and which audit events are written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from release_tasks.config.schema import PairingConfig
from release_tasks.core.errors import ConfigError, ExitCode, StageFailed, UsageError
from release_tasks.core.options import Duration
from release_tasks.pairing.channels import Channel, SenderRefused
from release_tasks.pairing.codes import ALPHABET, ClockReading, is_same_code, new_code, read_clocks
from release_tasks.pairing.policy import Pairing, PendingRequest
from release_tasks.tasks.project import load_settings
from tests.support.clocks import Clocks

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP
HOUR = 3600.0


def request_code(pairing: Pairing, sender: str, channel: Channel = TELEGRAM) -> PendingRequest:
    """Request a pairing, and expect a code."""
    request = pairing.request(channel, sender).request
    assert request is not None
    return request


def events(pairing: Pairing) -> list[dict[str, Any]]:
    verdict = pairing.audit.verify()
    assert verdict.intact and not verdict.notes
    return verdict.events


@pytest.mark.smoke
def test_a_sender_is_admitted_from_approval_to_revocation(pairing: Pairing) -> None:
    """Unknown, pending, approved, revoked: only an approved sender is admitted, and only on that channel."""
    assert not pairing.is_approved(WHATSAPP, "15551234567")
    outcome = pairing.request(WHATSAPP, "+1 555 123 4567")
    assert outcome.status == "created" and outcome.request is not None
    assert outcome.request.sender == "15551234567"
    assert not pairing.is_approved(WHATSAPP, "15551234567")
    approval = pairing.approve(WHATSAPP, outcome.request.code)
    assert (approval.sender, approval.was_approved) == ("15551234567", False)
    assert pairing.is_approved(WHATSAPP, "15551234567:12@s.whatsapp.net")
    assert not pairing.is_approved(WHATSAPP, "15551234567@lid")
    assert not pairing.is_approved(TELEGRAM, "15551234567")
    assert pairing.pending(WHATSAPP) == [] and pairing.approved(WHATSAPP) == ["15551234567"]
    assert pairing.request(WHATSAPP, "15551234567").status == "approved"
    assert pairing.revoke(WHATSAPP, "0015551234567") == "15551234567"
    assert not pairing.is_approved(WHATSAPP, "15551234567")
    assert pairing.approved(WHATSAPP) == []


def test_codes_are_eight_of_thirty_two_characters() -> None:
    """Each character occurs at each position, and a code in use is not given again."""
    assert len(ALPHABET) == len(set(ALPHABET)) == 32 and not set("01IO") & set(ALPHABET)
    codes = [new_code(()) for _ in range(2000)]
    assert all(re.fullmatch(f"[{ALPHABET}]{{8}}", code) for code in codes)
    for place in range(8):
        assert {code[place] for code in codes} == set(ALPHABET)
    assert len(set(codes)) == len(codes)


def test_a_code_in_use_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another code is drawn when the random generator repeats itself."""
    letters = iter("AAAAAAAABBBBBBBB")
    monkeypatch.setattr("release_tasks.pairing.codes.secrets.choice", lambda _: next(letters))
    assert new_code({"AAAAAAAA"}) == "BBBBBBBB"


@pytest.mark.smoke
@pytest.mark.parametrize("typed", ["abcd2345", "ABCD 2345", " aBcD-2345\n", "ab cd 23 45", "ABCD\u20132345"])
def test_a_code_is_accepted_in_any_usual_spelling(typed: str) -> None:
    """Any case, with spaces, with a dash or the dash of a phone's keyboard."""
    assert is_same_code(typed, "ABCD2345")


@pytest.mark.parametrize(
    "typed", ["", "-", "ABCD234", "ABCD23456", "ABCD2346", "ABCD_2345", "\ud800", "ABCD2345\u0301"]
)
def test_a_wrong_code_is_refused(pairing: Pairing, put: Callable[..., Path], typed: str) -> None:
    """The message says what to type, and the audit event does not have the code."""
    moment = {"requestedAt": "2026-03-01T11:50:00.000Z", "expiresAt": "2026-03-01T12:50:00.000Z"}
    put("telegram-pairing.json", {"requests": [{"senderId": "111", "code": "ABCD2345", **moment}]})
    for decide in (pairing.approve, pairing.reject):
        with pytest.raises(
            StageFailed, match=r"No telegram request has this code: .*`inv pairing.list telegram`"
        ) as no:
            decide(TELEGRAM, typed)
        assert no.value.exit_code is ExitCode.NEGATIVE
    assert [(event["event"], event["action"]) for event in events(pairing)] == [
        ("pairing.refused", "approve"),
        ("pairing.refused", "reject"),
    ]
    assert [request.sender for request in pairing.pending(TELEGRAM)] == ["111"]


def test_codes_are_compared_in_constant_time(pairing: Pairing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pending code goes through the constant-time comparison, also after a match."""
    import hmac

    requests = [request_code(pairing, sender) for sender in ("1", "2", "3")]
    compared: list[bytes] = []

    def compare(typed: bytes, code: bytes) -> bool:
        compared.append(code)
        return typed == code

    monkeypatch.setattr(hmac, "compare_digest", compare)
    pairing.approve(TELEGRAM, requests[0].code)
    assert compared == [request.code.encode() for request in requests]


def test_a_repeated_request_gets_the_same_code_and_expiry(pairing: Pairing, credentials: Path, clocks: Clocks) -> None:
    """The repeated request writes nothing."""
    first = request_code(pairing, "111")
    before = (credentials / "telegram-pairing.json").stat().st_ino, len(events(pairing))
    clocks.pass_time(3000)
    again = pairing.request(TELEGRAM, " 111 ")
    assert again.status == "repeated" and again.request is not None
    assert (again.request.code, again.request.expires_at) == (first.code, first.expires_at)
    assert (again.request.age, again.request.time_left) == (3000.0, 600.0)
    assert ((credentials / "telegram-pairing.json").stat().st_ino, len(events(pairing))) == before
    clocks.pass_time(600)
    with pytest.raises(StageFailed, match="has expired"):
        pairing.approve(TELEGRAM, first.code)


def test_a_request_over_the_cap_is_not_stored(pairing: Pairing, credentials: Path, clocks: Clocks) -> None:
    """The cap holds per channel; a decision or an expiry frees a place."""
    requests = []
    for sender in ("1", "2", "3"):
        requests.append(request_code(pairing, sender))
        clocks.pass_time(1000)
    before = {path.name: path.read_bytes() for path in credentials.iterdir()}
    for _ in range(2):
        outcome = pairing.request(TELEGRAM, "4")
        assert (outcome.status, outcome.request) == ("full", None)
    assert {path.name: path.read_bytes() for path in credentials.iterdir()} == before
    assert pairing.request(TELEGRAM, "3").status == "repeated"
    assert pairing.request(WHATSAPP, "15551234567").status == "created"
    assert pairing.reject(TELEGRAM, requests[2].code) == "3"
    assert pairing.request(TELEGRAM, "4").status == "created"
    assert pairing.request(TELEGRAM, "5").status == "full"
    clocks.pass_time(600)
    assert pairing.request(TELEGRAM, "5").status == "created"
    assert [request.sender for request in pairing.pending(TELEGRAM)] == ["2", "4", "5"]
    assert b'"1"' not in (credentials / "telegram-pairing.json").read_bytes()


def test_a_decision_removes_expired_requests(pairing: Pairing, clocks: Clocks, stored: Callable[[str], Any]) -> None:
    """An expired code does not stay on disk."""
    request_code(pairing, "1")
    clocks.pass_time(1800)
    request_code(pairing, "2")
    code = request_code(pairing, "3").code
    clocks.pass_time(1800)
    pairing.approve(TELEGRAM, code)
    assert [request["senderId"] for request in stored("telegram-pairing.json")["requests"]] == ["2"]


def test_lifetime_and_cap_come_from_the_configuration(make_pairing: Callable[..., Pairing], clocks: Clocks) -> None:
    """A shorter lifetime also applies to older requests; a longer one does not."""
    patient, hasty = make_pairing(ttl=7200.0, max_pending=1), make_pairing(ttl=60.0, max_pending=2)
    request = request_code(patient, "1")
    assert (request.expires_at - request.requested_at).total_seconds() == 7200
    assert patient.request(TELEGRAM, "2").status == "full"
    assert hasty.request(TELEGRAM, "2").status == "created"
    assert make_pairing(max_pending=0).request(WHATSAPP, "15551234567").status == "full"
    clocks.pass_time(60)
    assert hasty.pending(TELEGRAM) == []
    assert [waiting.sender for waiting in patient.pending(TELEGRAM)] == ["1"]
    with pytest.raises(StageFailed, match="has expired"):
        hasty.approve(TELEGRAM, request.code)
    assert patient.approve(TELEGRAM, request.code).sender == "1"


def test_a_lifetime_of_zero_is_refused(tmp_path: Path) -> None:
    """Every code would expire immediately."""
    with pytest.raises(ConfigError, match="pairing: ttl: expected a duration above 0"):
        load_settings({"pairing": {"ttl": "0s"}}, tmp_path)


@pytest.mark.parametrize("back", [1.0, 600.0, HOUR, 24 * HOUR])
@pytest.mark.parametrize("looks_between", [True, False])
def test_a_clock_set_back_never_extends_a_lifetime(
    pairing: Pairing, clocks: Clocks, back: float, looks_between: bool
) -> None:
    """The code expires after an hour of real time, and not before, whatever the wall clock shows."""
    code = request_code(pairing, "111").code
    clocks.pass_time(1800)
    clocks.set_wall(-back)
    if looks_between:
        assert [request.time_left for request in pairing.pending(TELEGRAM)] == [1800.0]
        assert pairing.request(TELEGRAM, "222").status == "created"
    clocks.pass_time(1799)
    assert [request.sender for request in pairing.pending(TELEGRAM)][:1] == ["111"]
    clocks.pass_time(1)
    assert "111" not in [request.sender for request in pairing.pending(TELEGRAM)]
    with pytest.raises(StageFailed, match="has expired"):
        pairing.approve(TELEGRAM, code)
    assert not pairing.is_approved(TELEGRAM, "111")


def test_a_clock_set_ahead_ends_a_lifetime(pairing: Pairing, clocks: Clocks) -> None:
    """The stored expiry has then passed for every program that reads it."""
    code = request_code(pairing, "111").code
    clocks.set_wall(HOUR)
    with pytest.raises(StageFailed, match="has expired"):
        pairing.approve(TELEGRAM, code)


def test_a_request_survives_a_reboot_by_the_wall_clock(pairing: Pairing, clocks: Clocks) -> None:
    """The uptime restarts and is not used; a request from the future, by the wall clock, has expired."""
    code = request_code(pairing, "111").code
    clocks.pass_time(60)
    clocks.reboot()
    clocks.pass_time(60)
    assert [request.time_left for request in pairing.pending(TELEGRAM)] == [HOUR - 120]
    clocks.set_wall(-121)
    assert pairing.pending(TELEGRAM) == []
    with pytest.raises(StageFailed, match="has expired"):
        pairing.approve(TELEGRAM, code)


@pytest.mark.parametrize(
    ("requested", "expires", "is_live"),
    [
        ("2026-03-01T11:00:00.251Z", "2026-03-01T12:00:00.251Z", True),
        ("2026-03-01T11:00:00.250Z", "2026-03-01T12:00:00.250Z", False),
        ("2026-03-01T12:30:00+01:00", "2026-03-01T13:30:00+01:00", True),
        ("2026-03-01T12:00:01Z", "2026-03-01T13:00:01Z", False),
        ("2026-03-01T10:59:00Z", "2030-01-01T00:00:00Z", False),
        ("2026-03-01T11:59:00Z", "2026-03-01T11:58:00Z", False),
    ],
    ids=["just alive", "just over", "another zone", "from the future", "a long life", "over before it began"],
)
def test_a_request_of_another_program_expires_by_its_times(
    pairing: Pairing, put: Callable[..., Path], requested: str, expires: str, is_live: bool
) -> None:
    """It has no uptime; a request from the future has expired, and no lifetime exceeds the configured one."""
    entry = {"senderId": "111", "code": "ABCD2345", "requestedAt": requested, "expiresAt": expires}
    put("telegram-pairing.json", {"requests": [entry]})
    assert [request.sender for request in pairing.pending(TELEGRAM)] == ["111"][:is_live]
    if is_live:
        assert pairing.approve(TELEGRAM, "abcd-2345").sender == "111"
    else:
        with pytest.raises(StageFailed, match="has expired"):
            pairing.approve(TELEGRAM, "abcd-2345")


def test_the_clocks_of_this_machine_are_the_default() -> None:
    """UTC, and an uptime that increases between two reads."""
    first, second = read_clocks(), read_clocks()
    assert abs((first.wall - datetime.now(timezone.utc)).total_seconds()) < 5
    assert first.wall.utcoffset() == timedelta(0)
    assert first.is_same_boot_as(second) or not first.boot_id
    assert 0 <= second.uptime_ms - first.uptime_ms < 5000
    assert not ClockReading(wall=first.wall).is_same_boot_as(ClockReading(wall=first.wall))


@pytest.mark.parametrize("sender", ["*", "@alice", "-1001234567890", "", "15551234567-1600000000@g.us"])
def test_a_shared_id_is_neither_admitted_nor_stored(pairing: Pairing, credentials: Path, sender: str) -> None:
    """A request or revocation for it is a usage error, and nothing is written."""
    for channel in Channel:
        assert not pairing.is_approved(channel, sender)
        for attempt in (pairing.request, pairing.revoke):
            with pytest.raises(SenderRefused) as refused:
                attempt(channel, sender)
            assert isinstance(refused.value, UsageError)
    assert not credentials.exists()


def test_a_request_of_a_username_cannot_be_approved(pairing: Pairing, put: Callable[..., Path]) -> None:
    """A request that another program stored for it is refused with the reason, and can be rejected."""
    entry = {"senderId": "@alice", "code": "ABCD2345", "requestedAt": "2026-03-01T11:50:00Z"}
    put("telegram-pairing.json", {"requests": [{**entry, "expiresAt": "2026-03-01T12:50:00Z"}]})
    with pytest.raises(StageFailed, match="another person can get the same username later"):
        pairing.approve(TELEGRAM, "ABCD2345")
    assert pairing.approved(TELEGRAM) == []
    assert pairing.reject(TELEGRAM, "ABCD2345") == "@alice"
    assert [event["status"] for event in events(pairing)] == ["refused", "rejected"]


def test_a_rejected_sender_may_request_again(pairing: Pairing) -> None:
    """The old code is invalid."""
    old = request_code(pairing, "111").code
    pairing.reject(TELEGRAM, old)
    assert pairing.pending(TELEGRAM) == []
    new = request_code(pairing, "111").code
    assert new != old
    with pytest.raises(StageFailed, match="No telegram request has this code"):
        pairing.approve(TELEGRAM, old)
    pairing.approve(TELEGRAM, new)


def test_revoking_an_unapproved_sender_is_reported(pairing: Pairing) -> None:
    """The exit code is 1, and the attempt is recorded."""
    with pytest.raises(StageFailed, match="111 is not approved on telegram") as failed:
        pairing.revoke(TELEGRAM, "111")
    assert failed.value.exit_code is ExitCode.NEGATIVE
    (event,) = events(pairing)
    assert (event["event"], event["action"], event["senderId"]) == ("pairing.refused", "revoke", "111")


def test_every_spelling_of_an_approval_is_revoked(pairing: Pairing, put: Callable[..., Path]) -> None:
    """Another program may have stored the same sender twice."""
    put("whatsapp-allowFrom.json", {"senderIds": ["+15551234567", "15551234567@c.us", "15551234567@lid"]})
    pairing.revoke(WHATSAPP, "15551234567")
    assert not pairing.is_approved(WHATSAPP, "15551234567")
    assert pairing.approved(WHATSAPP) == ["15551234567@lid"]


def half_approved(pairing: Pairing, put: Callable[..., Path]) -> PendingRequest:
    """Store what a kill between grant and removal leaves: an approved sender whose request is still there."""
    request = request_code(pairing, "111")
    put("telegram-allowFrom.json", {"senderIds": ["111"]})
    return request


def test_an_interrupted_approval_is_repeated_with_the_same_code(pairing: Pairing, put: Callable[..., Path]) -> None:
    """Meanwhile the sender is admitted, is not pending, and does not count for the cap."""
    code = half_approved(pairing, put).code
    assert pairing.is_approved(TELEGRAM, "111") and pairing.pending(TELEGRAM) == []
    assert pairing.request(TELEGRAM, "111").status == "approved"
    assert [pairing.request(TELEGRAM, sender).status for sender in "2345"] == ["created"] * 3 + ["full"]
    approval = pairing.approve(TELEGRAM, code)
    assert (approval.sender, approval.was_approved) == ("111", True)
    assert pairing.approved(TELEGRAM) == ["111"]
    with pytest.raises(StageFailed, match="No telegram request has this code"):
        pairing.approve(TELEGRAM, code)


def test_an_interrupted_approval_can_be_revoked_and_not_rejected(pairing: Pairing, put: Callable[..., Path]) -> None:
    """A rejection would not remove the approval; a revocation also removes the code."""
    code = half_approved(pairing, put).code
    with pytest.raises(
        StageFailed,
        match=r"already approved on telegram\. To revoke the approval, run `inv pairing.revoke telegram 111`",
    ):
        pairing.reject(TELEGRAM, code)
    assert pairing.is_approved(TELEGRAM, "111")
    pairing.revoke(TELEGRAM, "111")
    assert not pairing.is_approved(TELEGRAM, "111")
    with pytest.raises(StageFailed, match="No telegram request has this code"):
        pairing.approve(TELEGRAM, code)


def test_every_decision_is_recorded_without_its_code(pairing: Pairing, clocks: Clocks, credentials: Path) -> None:
    """One chained event for each, with channel, sender and actor; no spelling of the code."""
    requests = [request_code(pairing, sender) for sender in ("1", "2", "3")]
    pairing.approve(TELEGRAM, requests[0].code)
    pairing.reject(TELEGRAM, requests[1].code)
    pairing.revoke(TELEGRAM, "1")
    clocks.pass_time(HOUR)
    for code in (requests[2].code.lower(), "ZZZZ-ZZZZ"):
        with pytest.raises(StageFailed):
            pairing.approve(TELEGRAM, code)
    reported = [(event["event"], event["status"], event.get("senderId"), event["channel"]) for event in events(pairing)]
    assert reported == [
        *(("pairing.requested", "pending", sender, "telegram") for sender in ("1", "2", "3")),
        ("pairing.approved", "granted", "1", "telegram"),
        ("pairing.rejected", "rejected", "2", "telegram"),
        ("pairing.revoked", "revoked", "1", "telegram"),
        ("pairing.refused", "refused", "3", "telegram"),
        ("pairing.refused", "refused", None, "telegram"),
    ]
    log = (credentials / "pairing-audit.log").read_text().upper()
    for code in [request.code for request in requests]:
        assert code not in log
    assert "ZZZZ" not in log


class PairingModel(RuleBasedStateMachine):
    """The policy against a model that knows the real time: admitted senders, pending requests, valid codes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.wall = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
        self.begun_wall: dict[str, datetime] = {}
        self.begun_true: dict[str, int] = {}
        self.codes: dict[str, str] = {}
        self.admitted: set[str] = set()
        self.true_ms = 0
        config = PairingConfig(credentials=Path(self.folder.name) / "credentials", ttl=Duration(HOUR))
        self.pairing = Pairing(config, lambda: ClockReading(wall=self.wall, boot_id="b", uptime_ms=self.true_ms))

    def teardown(self) -> None:
        self.folder.cleanup()

    def is_pending(self, sender: str) -> bool:
        is_young = self.true_ms - self.begun_true[sender] < HOUR * 1000
        return is_young and self.wall - self.begun_wall[sender] < timedelta(seconds=HOUR)

    def forget(self, sender: str) -> None:
        for known in (self.codes, self.begun_true, self.begun_wall):
            known.pop(sender, None)

    senders = st.sampled_from(["1", "2", "3", "4", "5"])

    def forget_expired(self) -> None:
        """Remove expired requests, as a change does; until then, a corrected wall clock restores a request."""
        for sender in [sender for sender in self.codes if not self.is_pending(sender)]:
            self.forget(sender)

    @rule(sender=senders)
    def ask(self, sender: str) -> None:
        outcome = self.pairing.request(TELEGRAM, sender)
        if sender in self.admitted:
            assert outcome.status == "approved"
        elif sender in self.codes and self.is_pending(sender):
            assert outcome.status == "repeated" and outcome.request is not None
            assert outcome.request.code == self.codes[sender]
        elif sum(map(self.is_pending, self.codes)) >= 3:
            assert outcome.status == "full"
        else:
            self.forget_expired()
            assert outcome.status == "created" and outcome.request is not None
            self.codes[sender] = outcome.request.code
            self.begun_true[sender], self.begun_wall[sender] = self.true_ms, self.wall

    @precondition(lambda self: self.codes)
    @rule(data=st.data(), is_approval=st.booleans())
    def decide(self, data: st.DataObject, is_approval: bool) -> None:
        sender = data.draw(st.sampled_from(sorted(self.codes)))
        code = self.codes[sender]
        typed = data.draw(st.sampled_from([code, code.lower(), f"{code[:4]}-{code[4:]}", f" {code[:4]} {code[4:]}"]))
        decide: Callable[..., Any] = self.pairing.approve if is_approval else self.pairing.reject
        if not self.is_pending(sender):
            with pytest.raises(StageFailed):
                decide(TELEGRAM, typed)
            return
        decide(TELEGRAM, typed)
        self.forget(sender)
        self.forget_expired()
        if is_approval:
            self.admitted.add(sender)

    @rule(sender=senders)
    def revoke(self, sender: str) -> None:
        if sender in self.admitted:
            self.pairing.revoke(TELEGRAM, sender)
            self.admitted.remove(sender)
        else:
            with pytest.raises(StageFailed):
                self.pairing.revoke(TELEGRAM, sender)

    @rule(seconds=st.sampled_from([1, 600, 1800, 3599, 3600]))
    def pass_time(self, seconds: int) -> None:
        self.true_ms += seconds * 1000
        self.wall += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([-3600, -1800, -1, 1, 1800]))
    def set_wall(self, seconds: int) -> None:
        self.wall += timedelta(seconds=seconds)

    @invariant()
    def admits_exactly_the_approved(self) -> None:
        assert self.pairing.approved(TELEGRAM) == sorted(self.admitted)
        for sender in ("1", "2", "3", "4", "5"):
            assert self.pairing.is_approved(TELEGRAM, sender) == (sender in self.admitted)

    @invariant()
    def shows_exactly_the_live_requests(self) -> None:
        shown = {request.sender: request.code for request in self.pairing.pending(TELEGRAM)}
        assert shown == {sender: code for sender, code in self.codes.items() if self.is_pending(sender)}

    @invariant()
    def the_log_agrees(self) -> None:
        admitted: set[str] = set()
        for event in events(self.pairing):
            if event["event"] == "pairing.approved":
                admitted.add(event["senderId"])
            elif event["event"] == "pairing.revoked":
                admitted.remove(event["senderId"])
        assert admitted == self.admitted


TestPairingModel = pytest.mark.slow(PairingModel.TestCase)
TestPairingModel.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
