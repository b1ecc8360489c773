"""Normalisation: one spelling for each sender, and shared ids are refused."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.pairing.channels import (
    Channel,
    SenderRefused,
    is_shared_id,
    is_spelling_of,
    normalise_sender,
    parse_channel,
)

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP

SPELLINGS = [
    (TELEGRAM, "123456789", "123456789"),
    (TELEGRAM, " 123456789\n", "123456789"),
    (TELEGRAM, "1", "1"),
    (TELEGRAM, "4503599627370495", "4503599627370495"),
    (WHATSAPP, "15551234567", "15551234567"),
    (WHATSAPP, "+15551234567", "15551234567"),
    (WHATSAPP, "+1 555 123 4567", "15551234567"),
    (WHATSAPP, "0015551234567", "15551234567"),
    (WHATSAPP, "00 1 555 123 4567", "15551234567"),
    (WHATSAPP, "+1\u00a0555\u202f123\t4567", "15551234567"),
    (WHATSAPP, "15551234567:12", "15551234567"),
    (WHATSAPP, "15551234567@s.whatsapp.net", "15551234567"),
    (WHATSAPP, "15551234567:12@s.whatsapp.net", "15551234567"),
    (WHATSAPP, "15551234567@c.us", "15551234567"),
    (WHATSAPP, "15551234567@C.US", "15551234567"),
    (WHATSAPP, "15551234567@lid", "15551234567@lid"),
    (WHATSAPP, "15551234567:3@lid", "15551234567@lid"),
    (WHATSAPP, "US.13491208655302741918", "US.13491208655302741918"),
    (WHATSAPP, "US.ENT.11815799212886844830", "US.ENT.11815799212886844830"),
    (WHATSAPP, "DE.aB3", "DE.aB3"),
]

REFUSALS = [
    (TELEGRAM, "@alice", "username"),
    (TELEGRAM, "alice", "username"),
    (TELEGRAM, "telegram:123", "username"),
    (TELEGRAM, "-1001234567890", "group"),
    (TELEGRAM, "-5", "group"),
    (TELEGRAM, "*", "wildcard"),
    (TELEGRAM, "", "numeric user id without leading zeros"),
    (TELEGRAM, "0", "numeric user id without leading zeros"),
    (TELEGRAM, "007", "numeric user id without leading zeros"),
    (TELEGRAM, "+15551234567", "numeric user id without leading zeros"),
    (TELEGRAM, "12 34", "numeric user id without leading zeros"),
    (TELEGRAM, "1.0", "numeric user id without leading zeros"),
    (TELEGRAM, "1e3", "numeric user id without leading zeros"),
    (TELEGRAM, "1\u0662\u0663", "numeric user id without leading zeros"),
    (TELEGRAM, "12345678901234567", "numeric user id without leading zeros"),
    (WHATSAPP, "*", "wildcard"),
    (WHATSAPP, "1555*", "wildcard"),
    (WHATSAPP, "15551234567-1600000000@g.us", "group"),
    (WHATSAPP, "120363012345678901@g.us", "group"),
    (WHATSAPP, "15551234567@G.US", "group"),
    (WHATSAPP, "status@broadcast", "status"),
    (WHATSAPP, "15551234567@broadcast", "broadcast"),
    (WHATSAPP, "120363012345678901@newsletter", "newsletter"),
    (WHATSAPP, "15551234567@example.org", "unknown id type"),
    (WHATSAPP, "15551234567@", "unknown id type"),
    (WHATSAPP, "15551234567@lid@c.us", "unknown id type"),
    (WHATSAPP, "", "phone number"),
    (WHATSAPP, "0171 1234567", "phone number"),
    (WHATSAPP, "+0015551234567", "phone number"),
    (WHATSAPP, "1234", "phone number"),
    (WHATSAPP, "1234567890123456", "phone number"),
    (WHATSAPP, "1555123\n4567890", "phone number"),
    (WHATSAPP, "15551234567-1600000000", "phone number"),
    (WHATSAPP, "1\u0662\u0663\u0664\u0665\u0666\u0667", "phone number"),
    (WHATSAPP, "us.13491208655302741918", "phone number"),
    (WHATSAPP, "US.1349@s.whatsapp.net", "phone number"),
    (WHATSAPP, "15551234567:x@s.whatsapp.net", "device"),
    (WHATSAPP, "15551234567:1:2@s.whatsapp.net", "device"),
    (WHATSAPP, "@lid", "digits before"),
    (WHATSAPP, "+15551234567@lid", "digits before"),
]


@pytest.mark.smoke
@pytest.mark.parametrize(("channel", "text", "sender"), SPELLINGS)
def test_each_spelling_of_a_sender_is_normalised(channel: Channel, text: str, sender: str) -> None:
    """Prefixes, spaces, device suffixes and server names are removed; the kind of id stays."""
    assert normalise_sender(channel, text) == sender
    assert is_spelling_of(channel, text, sender)
    assert not is_shared_id(channel, text)


@pytest.mark.smoke
@pytest.mark.parametrize(("channel", "text", "reason"), REFUSALS)
def test_a_shared_or_malformed_id_is_refused_with_the_reason(channel: Channel, text: str, reason: str) -> None:
    """The message has the given id, the channel and the reason; it is a usage error."""
    with pytest.raises(SenderRefused) as refused:
        normalise_sender(channel, text)
    assert reason in refused.value.reason
    assert refused.value.message.startswith(f"{text!r} is not a valid {channel.value} sender: ")
    assert refused.value.exit_code is ExitCode.USAGE
    is_many = reason in ("group", "wildcard", "status", "broadcast", "newsletter")
    assert is_shared_id(channel, text) == is_many


def test_equal_digits_of_different_kinds_are_different_senders() -> None:
    """A phone number, a linked id, business-scoped ids of two countries: five senders, and a group is refused."""
    digits = "13491208655302"
    kinds = (digits, f"{digits}@lid", f"US.{digits}", f"DE.{digits}", f"US.ENT.{digits}")
    assert len({normalise_sender(WHATSAPP, kind) for kind in kinds}) == 5
    with pytest.raises(SenderRefused):
        normalise_sender(WHATSAPP, f"{digits}@g.us")


# A slow draw on a busy machine is not a failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Senders by their distinguishing parts, and every spelling of each.
PHONES = st.from_regex(r"[1-9][0-9]{4,14}", fullmatch=True)
LIDS = st.from_regex(r"[1-9][0-9]{0,19}", fullmatch=True)
BUSINESS_SCOPED = st.from_regex(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,40}", fullmatch=True)
PEOPLE = st.one_of(
    st.tuples(st.just("phone"), PHONES),
    st.tuples(st.just("lid"), LIDS),
    st.tuples(st.just("lid"), PHONES),
    st.tuples(st.just("business"), BUSINESS_SCOPED),
    st.tuples(st.just("business"), PHONES.map("US.{}".format)),
)


@st.composite
def spellings(draw: st.DrawFn, person: tuple[str, str]) -> str:
    kind, identity = person
    device = draw(st.sampled_from(["", ":0", ":12", ":99"]))
    around = draw(st.sampled_from(["", " ", "\t"]))
    if kind == "business":
        text = identity
    elif kind == "lid":
        text = f"{identity}{device}@{draw(st.sampled_from(['lid', 'LID']))}"
    else:
        spaced = "".join(digit + draw(st.sampled_from(["", "", "", " ", "\u00a0"])) for digit in identity)
        server = draw(st.sampled_from(["", "@s.whatsapp.net", "@c.us", "@S.WhatsApp.Net"]))
        text = draw(st.sampled_from(["", "+", "00", "+ ", "00 "])) + spaced + device + server
    return around + text + around


@PATIENT
@given(data=st.data(), first=PEOPLE, second=PEOPLE)
def test_two_senders_never_have_one_normal_form(
    data: st.DataObject, first: tuple[str, str], second: tuple[str, str]
) -> None:
    """The normal forms are equal exactly when the senders are."""
    forms = [normalise_sender(WHATSAPP, data.draw(spellings(person))) for person in (first, first, second)]
    assert forms[0] == forms[1]
    assert (forms[0] == forms[2]) == (first == second)


ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789+-:@. *abUSEN\u00a0", max_size=24),
    st.from_regex(r"[+0]{0,2}[0-9 ]{1,16}(:[0-9]{1,2})?(@(s\.whatsapp\.net|c\.us|lid|g\.us))?", fullmatch=True),
)


@PATIENT
@given(channel=st.sampled_from(Channel), text=ANY_TEXT)
def test_normalisation_is_idempotent(channel: Channel, text: str) -> None:
    """A normal form is its own normal form, ASCII without spaces, and not a shared id; all else has a reason."""
    try:
        sender = normalise_sender(channel, text)
    except SenderRefused as refused:
        assert refused.reason
        return
    assert normalise_sender(channel, sender) == sender
    assert sender.isascii() and sender.isprintable() and " " not in sender
    assert is_spelling_of(channel, text, sender) and is_spelling_of(channel, sender, sender)
    assert not is_shared_id(channel, text)


@PATIENT
@given(channel=st.sampled_from(Channel), text=ANY_TEXT, sender=ANY_TEXT)
def test_searching_a_store_agrees_with_normalising(channel: Channel, text: str, sender: str) -> None:
    """The quick comparison that searches a store has the result of comparing normal forms."""
    try:
        expected = normalise_sender(channel, sender)
    except SenderRefused:
        return
    try:
        actual: str | None = normalise_sender(channel, text)
    except SenderRefused:
        actual = None
    assert is_spelling_of(channel, text, expected) == (actual == expected)


def test_an_unknown_channel_is_refused() -> None:
    """It is a usage error, and the message lists the channels."""
    assert parse_channel("telegram") is TELEGRAM
    assert parse_channel(" WhatsApp ") is WHATSAPP
    with pytest.raises(UsageError, match="There is no channel 'signal': use telegram or whatsapp"):
        parse_channel("signal")
