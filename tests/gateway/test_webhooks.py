"""Direct messages at a running gateway: unknown senders are blocked, approved messages are queued once."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import define

from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from tests.support.gateway import RunningGateway

SECRET = "a-telegram-secret_123"
APP_SECRET = "an app secret"
VERIFY_TOKEN = "a verify token"
MARK = "words that no stranger gets in 7f3a"


@define
class Service:
    """A gateway with webhooks, and the pairing of an operator's shell."""

    gateway: RunningGateway
    pairing: Pairing
    credentials: Path
    number: int = 0

    def update(self, sender: int, text: str | None = MARK, /, **changes: Any) -> dict[str, Any]:
        """Return a Telegram update in Telegram's form, with some fields of its message changed."""
        self.number += 1
        person = {"id": sender, "is_bot": False, "first_name": MARK, "language_code": "en"}
        chat = {"id": sender, "first_name": MARK, "type": "private"}
        message = {"message_id": 7, "from": person, "chat": chat, "date": 1793000000, "text": text, **changes}
        return {"update_id": 900_000 + self.number, "message": message}

    def telegram(self, update: Any, **options: Any) -> requests.Response:
        headers = {"X-Telegram-Bot-Api-Secret-Token": SECRET, **options.pop("headers", {})}
        body = update if isinstance(update, bytes) else json.dumps(update).encode()
        answer: requests.Response = self.gateway.post("/webhooks/telegram", data=body, headers=headers, **options)
        return answer

    def message(self, sender: str, text: Any = MARK, **changes: Any) -> dict[str, Any]:
        """Return one message of a WhatsApp notification."""
        self.number += 1
        identity = {"from": sender, "id": f"wamid.{self.number:08}", "timestamp": "1793000000"}
        return {**identity, "type": "text", "text": {"body": text}, **changes}

    def whatsapp(self, *messages: dict[str, Any], **value: Any) -> requests.Response:
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "15550001111", "phone_number_id": "106"},
            "contacts": [{"profile": {"name": MARK}, "wa_id": "1"}],
            "messages": list(messages),
            **value,
        }
        change = {"field": "messages", "value": value}
        return self.signed({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]})

    def signed(self, notification: Any, **headers: str) -> requests.Response:
        body = notification if isinstance(notification, bytes) else json.dumps(notification).encode()
        digest = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
        given = {"X-Hub-Signature-256": f"sha256={digest}", **headers}
        answer: requests.Response = self.gateway.post("/webhooks/whatsapp", data=body, headers=given)
        return answer

    def queued(self) -> list[dict[str, Any]]:
        """Return all queued messages, oldest first."""
        listed = self.gateway.get("/messages", params={"limit": "500"}).json()["data"]["messages"]
        assert isinstance(listed, list)
        return listed

    def ids(self) -> list[str]:
        return [message["id"] for message in self.queued()]

    def inbound(self) -> list[tuple[str, str, str]]:
        return [(m["channel"], m["to"], m["text"]) for m in self.queued() if m["channel"].startswith("inbound.")]

    def replies(self, sender: str) -> list[str]:
        return [m["text"] for m in self.queued() if m["channel"] in ("telegram", "whatsapp") and m["to"] == sender]

    def files_with(self, text: str) -> list[str]:
        """Return the files of the gateway and of the pairing stores that contain ``text``."""
        files = [path for folder in (self.gateway.home.root, self.credentials) for path in folder.rglob("*")]
        return [path.name for path in files if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def running(start_shared: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Return the gateway of this module."""
    config = PairingConfig(credentials=tmp_path_factory.mktemp("pairing") / "credentials")
    variables = {
        "TELEGRAM_WEBHOOK_SECRET": SECRET,
        "WHATSAPP_APP_SECRET": APP_SECRET,
        "WHATSAPP_VERIFY_TOKEN": VERIFY_TOKEN,
    }
    return Service(start_shared(variables, pairing=config), Pairing(config), config.credentials)


@pytest.fixture
def service(running: Service) -> Service:
    """Return the gateway with empty stores."""
    shutil.rmtree(running.credentials, ignore_errors=True)
    return running


@pytest.mark.slow
def test_an_unknown_sender_gets_one_code_and_is_blocked(service: Service) -> None:
    """The first message is answered with the code and the command; repeats, retries and others over the cap are not."""
    update = service.update(4711001)
    assert service.telegram(update).json()["data"] == {"queued": 0}
    (waiting,) = service.pairing.pending(Channel.TELEGRAM)
    (reply,) = service.replies("4711001")
    assert waiting.code in reply and f"inv pairing.approve telegram {waiting.code}" in reply
    assert re.search(r"valid for (59|60) min", reply)
    for again in (update, service.update(4711001), service.update(4711001, "more")):
        assert service.telegram(again).status_code == 200
    for number in range(2, 6):
        assert service.telegram(service.update(4711000 + number)).status_code == 200
    assert len(service.pairing.pending(Channel.TELEGRAM)) == 3
    assert [len(service.replies(str(4711000 + number))) for number in range(1, 6)] == [1, 1, 1, 0, 0]
    assert service.inbound() == []
    assert service.files_with(MARK) == []


def test_an_approval_applies_from_the_next_message(service: Service) -> None:
    """No restart is needed; a revocation works the same way. A message from before the approval is not queued."""
    sender = 4712001
    before = len(service.inbound())
    service.telegram(service.update(sender, "before"))
    (waiting,) = service.pairing.pending(Channel.TELEGRAM)
    service.pairing.approve(Channel.TELEGRAM, waiting.code)
    update = service.update(sender, "after")
    assert service.telegram(update).json()["data"] == {"queued": 1}
    assert service.telegram(update).json()["data"] == {"queued": 0}  # a retry by Telegram
    assert service.inbound()[before:] == [("inbound.telegram", str(sender), "after")]
    service.pairing.revoke(Channel.TELEGRAM, str(sender))
    assert service.telegram(service.update(sender, "too late")).json()["data"] == {"queued": 0}
    assert len(service.inbound()) == before + 1
    assert len(service.replies(str(sender))) == 2  # unknown again, with a new code


def test_concurrent_copies_of_a_message_are_queued_once(service: Service) -> None:
    """The same update arrives eight times at the same moment."""
    service.telegram(service.update(4713001))
    service.pairing.approve(Channel.TELEGRAM, service.pairing.pending(Channel.TELEGRAM)[0].code)
    before, update = len(service.inbound()), service.update(4713001, "once")
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json()["data"]["queued"] for answer in pool.map(service.telegram, [update] * 8)]
    assert sorted(answers) == [0] * 7 + [1]
    assert len(service.inbound()) == before + 1


def test_concurrent_unknown_senders_stay_within_the_cap(service: Service) -> None:
    """Twenty at the same time: three codes, three replies."""
    before = len(service.queued())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(service.telegram, [service.update(4714000 + number) for number in range(20)]))
    assert {answer.status_code for answer in answers} == {200}
    assert len(service.pairing.pending(Channel.TELEGRAM)) == 3
    assert len(service.queued()) == before + 3


@pytest.fixture
def admitted(service: Service) -> Service:
    """Return the gateway with one approved sender on each channel, so that only the form can block a message."""
    for channel, sender in ((Channel.TELEGRAM, "4715001"), (Channel.WHATSAPP, "15557000001")):
        request = service.pairing.request(channel, sender).request
        assert request is not None
        service.pairing.approve(channel, request.code)
    return service


PERSON = {"id": 4715001, "is_bot": False}
NOT_DIRECT_MESSAGES: dict[str, Callable[[Service], Any]] = {
    "a group": lambda s: s.update(4715001, chat={"id": -100, "type": "group"}),
    "a supergroup": lambda s: s.update(4715001, chat={"id": -1001, "type": "supergroup"}),
    "a group that has the sender's id": lambda s: s.update(4715001, chat={"id": 4715001, "type": "group"}),
    "a private chat of another person": lambda s: s.update(4715001, chat={"id": 1, "type": "private"}),
    "a bot": lambda s: s.update(4715001, **{"from": {"id": 4715001, "is_bot": True}}),
    "an unknown bot flag": lambda s: s.update(4715001, **{"from": {"id": 4715001}}),
    "no sender": lambda s: s.update(4715001, **{"from": None}),
    "an id that is text": lambda s: s.update(4715001, **{"from": {**PERSON, "id": "4715001"}}),
    "an id that is true": lambda s: s.update(
        1, **{"from": {**PERSON, "id": True}, "chat": {"id": 1, "type": "private"}}
    ),
    "an id with a fraction": lambda s: s.update(4715001, **{"from": {**PERSON, "id": 4715001.0}}),
    "in the name of a chat": lambda s: s.update(4715001, sender_chat={"id": -100, "type": "channel"}),
    "an edit": lambda s: {"update_id": 1, "edited_message": s.update(4715001)["message"]},
    "a channel post": lambda s: {"update_id": 1, "channel_post": s.update(4715001)["message"]},
    "a business message": lambda s: {"update_id": 1, "business_message": s.update(4715001)["message"]},
    "a button": lambda s: {"update_id": 1, "callback_query": {"id": "1", "from": PERSON, "data": "x"}},
    "a join": lambda s: s.update(4715001, None, new_chat_members=[PERSON]),
    "no update id": lambda s: {"message": s.update(4715001)["message"]},
    "an update id that is text": lambda s: {**s.update(4715001), "update_id": "1"},
    "a message that is text": lambda s: {"update_id": 1, "message": "hello"},
    "nothing": lambda s: {},
}


@pytest.mark.parametrize("case", NOT_DIRECT_MESSAGES)
def test_only_direct_messages_of_a_person_are_queued(admitted: Service, case: str) -> None:
    """The answer is 200, or Telegram would send the update again."""
    before = admitted.ids()
    answer = admitted.telegram(NOT_DIRECT_MESSAGES[case](admitted))
    assert (answer.status_code, answer.json()["data"]) == (200, {"queued": 0})
    assert admitted.ids() == before
    assert admitted.pairing.pending(Channel.TELEGRAM) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Telegram-Bot-Api-Secret-Token": None}, 401),
        ({"X-Telegram-Bot-Api-Secret-Token": ""}, 403),
        ({"X-Telegram-Bot-Api-Secret-Token": SECRET + "x"}, 403),
        ({"X-Telegram-Bot-Api-Secret-Token": SECRET[:-1]}, 403),
        ({"X-Telegram-Bot-Api-Secret-Token": SECRET.upper()}, 403),
        ({"X-Telegram-Bot-Api-Secret-Token": "é".encode("latin-1")}, 403),
    ],
    ids=["none", "empty", "longer", "shorter", "other case", "not ASCII"],
)
def test_without_the_secret_the_body_is_not_parsed(admitted: Service, headers: Any, status: int) -> None:
    """A malformed body gets the same answer."""
    before = admitted.ids()
    for update in (admitted.update(4715001), b"rubbish", b"x" * 2_000_000):
        answer = admitted.telegram(update, headers=headers)
        assert answer.status_code == status, answer.text
        assert SECRET not in answer.text
    assert admitted.ids() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"\xff", 400), (b'{"update_id": 1, "message": "\xc3"}', 400),
     (b'{"update_id": ' + b"9" * 5000 + b"}", 400), (b"[" * 200_000, 400), (b"x" * (1024 * 1024 + 1), 413)],
    ids=["empty", "cut", "a list", "no UTF-8", "half a character", "a huge number", "deep", "over 1 MiB"],
)  # fmt: skip
def test_a_malformed_body_is_refused(admitted: Service, body: bytes, status: int) -> None:
    """The answer is JSON with a message and nothing is queued, on both channels."""
    before = admitted.ids()
    for answer in (admitted.telegram(body), admitted.signed(body)):
        assert answer.status_code == status, answer.text
        assert answer.json()["ok"] is False
    assert admitted.ids() == before


def test_a_body_of_almost_a_megabyte_is_accepted(admitted: Service) -> None:
    """The limit is the largest body that the channel may send."""
    before = len(admitted.inbound())
    answer = admitted.telegram(admitted.update(4715001, "long", filler="x" * 1_000_000))
    assert answer.json()["data"] == {"queued": 1}
    assert len(admitted.inbound()) == before + 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"text": None, "photo": [{"file_id": "1"}], "caption": "look"}, "look"),
        ({"text": None, "voice": {"file_id": "1"}}, "[voice]"),
        (
            {"text": None, "checklist": {"title": "Shopping", "tasks": [{"id": 1, "text": "milk"}]}},
            "[checklist] Shopping; milk",
        ),
        ({"text": None, "hologram": {"title": "My cat"}}, "[hologram] My cat"),
        ({"text": "half \ud800 a character"}, "half ? a character"),
        ({"text": "\x00 \u202e <b>"}, "\x00 \u202e <b>"),
    ],
    ids=["a caption", "a voice message", "a checklist", "a newer kind", "a lone surrogate", "control characters"],
)
def test_content_of_an_approved_sender_is_queued(admitted: Service, changes: dict[str, Any], text: str) -> None:
    """Content without text is queued with the name of its type."""
    assert admitted.telegram(admitted.update(4715001, **changes)).json()["data"] == {"queued": 1}
    assert admitted.inbound()[-1] == ("inbound.telegram", "4715001", text)


def test_whatsapp_messages_need_an_approval_too(service: Service) -> None:
    """The first message gets an answer; after the approval each message is queued once, with any spelling."""
    before = len(service.inbound())
    stranger = service.message("15557000009")
    assert service.whatsapp(stranger).json()["data"] == {"queued": 0}
    (waiting,) = service.pairing.pending(Channel.WHATSAPP)
    (reply,) = service.replies("15557000009")
    assert f"inv pairing.approve whatsapp {waiting.code}" in reply
    assert service.files_with(MARK) == []
    service.pairing.approve(Channel.WHATSAPP, waiting.code)
    first, second = service.message("15557000009", "one"), service.message("+1 555 700 0009", "two")
    assert service.whatsapp(first, second, first).json()["data"] == {"queued": 2}
    assert service.whatsapp(first, second).json()["data"] == {"queued": 0}
    assert [text for _, _, text in service.inbound()[before:]] == ["one", "two"]
    assert service.whatsapp(stranger).json()["data"] == {"queued": 1}  # it was not queued before: Meta sends it again


PHONE, SCOPED = "15557000021", "US.13491208655302741918"


def test_either_approved_id_admits(service: Service) -> None:
    """A person with a username was approved by the business-scoped id; later messages have a phone number, too."""
    before = len(service.inbound())
    both = {"from": PHONE, "from_user_id": SCOPED}
    service.whatsapp({**service.message(""), "from": None, "from_user_id": SCOPED})
    service.pairing.approve(Channel.WHATSAPP, service.pairing.pending(Channel.WHATSAPP)[0].code)
    assert service.whatsapp({**service.message("", "one"), **both}).json()["data"] == {"queued": 1}
    contacts = [{"profile": {"name": "Ada", "username": "ada"}, "wa_id": PHONE, "user_id": SCOPED}]
    assert service.whatsapp(service.message(PHONE, "two"), contacts=contacts).json()["data"] == {"queued": 1}
    # A reply to the sender in the queue reaches the approved id.
    assert service.inbound()[before:] == [("inbound.whatsapp", SCOPED, "one"), ("inbound.whatsapp", SCOPED, "two")]
    assert service.whatsapp(service.message(PHONE, "no id")).json()["data"] == {"queued": 0}
    service.pairing.revoke(Channel.WHATSAPP, SCOPED)
    assert service.whatsapp({**service.message("", "three"), **both}).json()["data"] == {"queued": 0}
    assert [request.ids for request in service.pairing.pending(Channel.WHATSAPP)] == [(PHONE,), (PHONE, SCOPED)]


def test_messages_to_another_number_are_ignored(admitted: Service) -> None:
    """Other numbers of the account belong to other services. While the settings are invalid, nothing is lost."""
    settings, other = admitted.gateway.home.settings, {"phone_number_id": "107", "display_phone_number": "1"}
    stored = settings.read_text()
    try:
        for number, expected in ((None, 1), ("107", 1), ("106", 0)):
            value = json.loads(stored)
            value["delivery"] = {"whatsapp": {"phoneNumberId": number} if number else {}}
            settings.write_text(json.dumps(value))
            answer = admitted.whatsapp(admitted.message("15557000001"), metadata=other)
            assert answer.json()["data"] == {"queued": expected}, number
        settings.write_text("{")
        message = admitted.message("15557000001", "later")
        assert admitted.whatsapp(message).status_code == 503
    finally:
        settings.write_text(stored)
    assert admitted.whatsapp(message).json()["data"] == {"queued": 1}


def test_a_sender_without_a_phone_number_is_another_sender(service: Service) -> None:
    """The same digits as another kind of id are another sender, with an approval of its own."""
    admit = service.pairing.request(Channel.WHATSAPP, "15557000003").request
    assert admit is not None
    service.pairing.approve(Channel.WHATSAPP, admit.code)
    scoped = {key: value for key, value in service.message("").items() if key != "from"}
    assert service.whatsapp({**scoped, "from_user_id": "US.15557000003"}).json()["data"] == {"queued": 0}
    assert service.whatsapp(service.message("15557000003@lid")).json()["data"] == {"queued": 0}
    pending = service.pairing.pending(Channel.WHATSAPP)
    assert {request.sender for request in pending} == {"US.15557000003", "15557000003@lid"}


NO_WHATSAPP_MESSAGES: dict[str, Callable[[Service], dict[str, Any]]] = {
    "a group": lambda s: s.message("15557000001", group_id="120363"),
    "a group's own id": lambda s: s.message("120363@g.us"),
    "a status": lambda s: s.message("status@broadcast"),
    "a wildcard": lambda s: s.message("*"),
    "a changed number": lambda s: s.message("15557000001", type="system", system={"type": "user_changed_number"}),
    "a reaction": lambda s: s.message("15557000001", type="reaction", reaction={"emoji": "x"}),
    "an edit": lambda s: s.message("15557000001", type="edit"),
    "a type that is a list": lambda s: s.message("15557000001", type=["text"]),
    "a text that is a list": lambda s: s.message("15557000001", text=["x"]),
    "no id": lambda s: s.message("15557000001", id=None),
    "an empty id": lambda s: s.message("15557000001", id=""),
    "a sender that is a number": lambda s: s.message(15557000001),  # type: ignore[arg-type]
    "no sender": lambda s: s.message(""),
}


@pytest.mark.parametrize("case", NO_WHATSAPP_MESSAGES)
def test_only_whatsapp_messages_of_a_person_are_queued(admitted: Service, case: str) -> None:
    """The answer is 200, or Meta would send the notification again."""
    before = admitted.ids()
    answer = admitted.whatsapp(NO_WHATSAPP_MESSAGES[case](admitted))
    assert (answer.status_code, answer.json()["data"]) == (200, {"queued": 0})
    assert admitted.ids() == before


@pytest.mark.parametrize(
    "notification",
    [
        {"object": "page"},
        {"object": "whatsapp_business_account", "entry": "x"},
        {"object": "whatsapp_business_account", "entry": [1, {"changes": [1, {"field": "messages", "value": 1}]}]},
    ],
)
def test_malformed_notifications_are_ignored(admitted: Service, notification: Any) -> None:
    """Entries, changes or values have a wrong type."""
    assert admitted.signed(notification).json()["data"] == {"queued": 0}


def test_statuses_and_other_fields_are_left_out(admitted: Service) -> None:
    """A status (sent, delivered, read) is not a message, and messages of another field are ignored."""
    before = admitted.ids()
    statuses = [{"id": "wamid.1", "status": "read", "recipient_id": "15557000001"}]
    assert admitted.whatsapp(statuses=statuses).json()["data"] == {"queued": 0}
    value = {"messages": [admitted.message("15557000001")]}
    other = {"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "history", "value": value}]}]}
    assert admitted.signed(other).json()["data"] == {"queued": 0}
    assert admitted.ids() == before


def test_the_signature_covers_every_byte(admitted: Service) -> None:
    """One more byte, a digest with another secret, or no signature: refused before the body is parsed."""
    before = admitted.ids()
    body = json.dumps({"object": "whatsapp_business_account", "entry": []}).encode()
    right = "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    other = "sha256=" + hmac.new(b"another", body, hashlib.sha256).hexdigest()
    url = "/webhooks/whatsapp"
    assert admitted.gateway.post(url, data=body, headers={"X-Hub-Signature-256": right}).status_code == 200
    for wrong in (other, right[:-1], right.removeprefix("sha256="), "", right.upper()):
        assert admitted.gateway.post(url, data=body, headers={"X-Hub-Signature-256": wrong}).status_code == 403
    assert admitted.gateway.post(url, data=body + b" ", headers={"X-Hub-Signature-256": right}).status_code == 403
    assert admitted.gateway.post(url, data=body).status_code == 401
    assert admitted.gateway.post(url, data=b"rubbish").status_code == 401
    assert admitted.ids() == before


def test_the_handshake_requires_the_token(service: Service) -> None:
    """The challenge is returned as plain text to a request with the token."""
    query = {"hub.mode": "subscribe", "hub.verify_token": VERIFY_TOKEN, "hub.challenge": "1158201444"}

    def ask(**changes: str | None) -> requests.Response:
        answer: requests.Response = service.gateway.get("/webhooks/whatsapp", params={**query, **changes})
        return answer

    answer = ask()
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert ask(**{"hub.verify_token": "wrong"}).status_code == 403
    assert ask(**{"hub.verify_token": None}).status_code == 401
    assert ask(**{"hub.mode": "unsubscribe"}).status_code == 400
    for challenge in ("<script>", "", "x" * 300, "a b"):
        assert ask(**{"hub.challenge": challenge}).status_code == 400


def test_a_damaged_store_admits_no_sender(admitted: Service) -> None:
    """The channel is asked to retry, health names the file, and the message is queued once the file is fixed."""
    before, path = len(admitted.inbound()), admitted.credentials / "telegram-allowFrom.json"
    stored, update = path.read_bytes(), admitted.update(4715001, "meanwhile")
    path.write_bytes(stored[:-4])
    try:
        assert admitted.telegram(update).status_code == 503
        assert str(path) in str(admitted.gateway.health()["problems"])
        assert path.read_bytes() == stored[:-4]
        assert admitted.whatsapp(admitted.message("15557000001", "elsewhere")).json()["data"] == {"queued": 1}
    finally:
        path.write_bytes(stored)
    assert admitted.telegram(update).json()["data"] == {"queued": 1}
    assert [text for _, _, text in admitted.inbound()[before:]] == ["elsewhere", "meanwhile"]


def test_only_the_webhooks_accept_a_public_host_name(admitted: Service) -> None:
    """They are called through a proxy; all other paths require loopback names."""
    public = {"Host": "bot.example.org"}
    assert admitted.telegram(admitted.update(4715001, "x"), headers=public).status_code == 200
    for path in ("/health", "/messages", "/webhooksx"):
        assert admitted.gateway.get(path, headers=public).status_code == 403


def test_the_messages_endpoint_cannot_queue_inbound_messages(admitted: Service) -> None:
    """Only a webhook sets the channel of a message."""
    forged = {"channel": "inbound.telegram", "to": "4715001", "text": "x"}
    assert admitted.gateway.post("/messages", json=forged).status_code == 400


def test_a_reply_that_could_not_be_queued_is_sent_the_next_time(service: Service) -> None:
    """The process failed between storing the request and queueing the reply; later each code is answered once."""
    assert service.pairing.request(Channel.TELEGRAM, "4716001").status == "created"
    for _ in range(3):
        assert service.telegram(service.update(4716001)).status_code == 200
    assert len(service.replies("4716001")) == 1


def test_a_callback_key_does_not_hide_a_message(admitted: Service) -> None:
    """The keys of messages and of callbacks are in one table."""
    update = admitted.update(4715001, "not swallowed")
    for prefix in ("inbound.", "replied."):
        key = {"key": f"{prefix}telegram/{update['update_id']}"}
        assert admitted.gateway.post("/callback", json=key).status_code == 400
        assert admitted.gateway.post("/callback", json={}, headers={"Idempotency-Key": key["key"]}).status_code == 400
    assert admitted.telegram(update).json()["data"] == {"queued": 1}


@pytest.mark.slow
def test_without_secrets_the_webhooks_are_closed(shared: RunningGateway) -> None:
    """This also holds on loopback, because the requests of a proxy come from there."""
    for answer in (
        shared.post("/webhooks/telegram", json={}, headers={"X-Telegram-Bot-Api-Secret-Token": ""}),
        shared.post("/webhooks/whatsapp", json={}, headers={"X-Hub-Signature-256": "sha256="}),
        shared.get("/webhooks/whatsapp", params={"hub.mode": "subscribe", "hub.verify_token": ""}),
    ):
        assert answer.status_code == 503
        assert "is not set" in answer.json()["error"]["message"]
