"""Notifications to a webhook: signed, retried, limited in time and size, without secrets."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.stages.notifications.notification import Delivery, Notification, notification_bytes
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.webhook import shown_origin
from tests.support.webhook_receiver import Receiver

Make = Callable[[Settings], Notification]
SettingsWith = Callable[..., Settings]
KEY = "kept-between-the-two-of-us"


def send(settings: Settings, make: Make) -> list[Delivery]:
    notifications = Notifications(settings)
    notifications.announce(lambda: make(settings))
    return notifications.finish()


def events(settings: Settings) -> list[dict[str, Any]]:
    verdict = Pipeline(settings.release.root).audit.verify()
    assert verdict.intact
    return verdict.events


def test_a_receiver_can_verify_the_exact_bytes(
    receiver: Receiver, settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature covers the exact body; time and id are in the body and in headers."""
    monkeypatch.setenv("NOTICE_SECRET", KEY)
    settings = settings_with(chat={"webhook": receiver.url, "hmac_secret_env": "NOTICE_SECRET"})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("sent", 1)
    (body,), (headers,), (document,) = receiver.bodies, receiver.headers, receiver.documents()
    assert headers["X-Signature"] == "sha256=" + hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
    assert (headers["X-Notice-Id"], headers["X-Notice-Time"]) == (document["id"], document["time"])
    assert headers["Content-Type"] == "application/json"
    assert receiver.paths == ["/hooks/T0SECRETPATH?token=querysecret"]


def test_the_document_is_complete(receiver: Receiver, settings_with: SettingsWith, failed: Make) -> None:
    """Event, release, snapshot, reason, the next command, host and project."""
    settings = settings_with(chat={"webhook": receiver.url})
    send(settings, failed)
    (document,) = receiver.documents()
    assert document["noticeVersion"] == 1
    assert document["occasion"] == "failed"
    assert document["text"] == "demo: the rollback to v1_snapshot failed: no room"
    assert document["next"] == "inv release.diagnose"
    assert document["application"] == {"name": "demo", "version": None}
    assert (document["releaseId"], document["snapshotId"]) == ("v1", "v1_snapshot")
    assert document["project"] == str(settings.project)
    assert document["host"] and document["actor"]
    assert "X-Signature" not in receiver.headers[0]


@pytest.mark.parametrize("first", [500, 503, 429, 408, "reset"])
@pytest.mark.usefixtures("no_pauses")
def test_a_temporary_failure_is_retried(
    first: int | str, receiver: Receiver, settings_with: SettingsWith, failed: Make
) -> None:
    """Two failures and then 200: delivered, with the same bytes three times."""
    receiver.script = [first, first, 200]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url}), failed)
    assert (delivery.status, delivery.attempts) == ("sent", 3)
    assert len(set(receiver.bodies)) == 1


@pytest.mark.parametrize("answer", [400, 401, 404, 410, 304])
@pytest.mark.usefixtures("no_pauses")
def test_a_refusal_is_not_retried(answer: int, receiver: Receiver, settings_with: SettingsWith, failed: Make) -> None:
    """A 4xx answer is final."""
    receiver.script = [answer]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url}), failed)
    assert (delivery.status, delivery.attempts, len(receiver.bodies)) == ("failed", 1, 1)
    assert f"HTTP {answer}" in delivery.detail


def test_retries_wait_longer_each_time(
    receiver: Receiver, settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses grow; the last attempt has no pause after it."""
    from release_tasks.stages.notifications import sending

    monkeypatch.setattr(sending, "FIRST_PAUSE_SECONDS", 0.03)
    arrived: list[float] = []
    answer = receiver.answer

    def record(request: BaseHTTPRequestHandler, status: int | str) -> None:
        arrived.append(time.monotonic())
        answer(request, status)

    monkeypatch.setattr(receiver, "answer", record)
    receiver.script = [500]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url, "retries": 2}), failed)
    assert (delivery.status, delivery.attempts) == ("failed", 3)
    assert arrived[1] - arrived[0] >= 0.03 and arrived[2] - arrived[1] >= 0.06


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_an_endless_answer_is_given_up(
    fault: str, receiver: Receiver, settings_with: SettingsWith, failed: Make
) -> None:
    """A receiver that hangs or sends a byte at a time costs one timeout."""
    receiver.script = [fault]
    started = time.monotonic()
    settings = settings_with(chat={"webhook": receiver.url, "timeout": "100ms", "retries": 0})
    (delivery,) = send(settings, failed)
    # The first bytes of a drip are an answer with its status, and not a complete one.
    assert (delivery.status, delivery.attempts) == ("failed", 1)
    assert "within 100ms" in delivery.detail
    assert time.monotonic() - started < 20


def test_a_huge_answer_is_not_read(receiver: Receiver, settings_with: SettingsWith, failed: Make) -> None:
    """Some kilobytes of ten gigabytes are read, and the notification is delivered."""
    receiver.script = ["huge"]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url}), failed)
    assert delivery.status == "sent"
    assert receiver.sent < 64 << 20  # the buffers of both ends


def test_another_host_gets_nothing(
    receiver: Receiver, make_receiver: Callable[[], Receiver], settings_with: SettingsWith, failed: Make
) -> None:
    """A redirect to another host is not followed."""
    other = make_receiver()
    receiver.script = [f"{other.base}/stolen?secret=inTheLocation"]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url}), failed)
    assert (delivery.status, delivery.attempts) == ("failed", 1)
    assert other.bodies == []
    assert "inTheLocation" not in delivery.detail


def test_the_same_host_may_redirect(receiver: Receiver, settings_with: SettingsWith, failed: Make) -> None:
    """The body is sent again, byte for byte."""
    receiver.script = ["/moved", 200]
    (delivery,) = send(settings_with(chat={"webhook": receiver.url}), failed)
    assert delivery.status == "sent"
    assert receiver.paths[1] == "/moved" and receiver.bodies[0] == receiver.bodies[1]


def test_a_refused_connection_is_retried_and_reported(
    free_port: int, settings_with: SettingsWith, failed: Make, no_pauses: None
) -> None:
    """The message names the host."""
    settings = settings_with(chat={"webhook": f"http://127.0.0.1:{free_port}/x?token=querysecret", "retries": 1})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("failed", 2)
    assert delivery.detail.startswith(f"http://127.0.0.1:{free_port} refused the connection")


def test_without_its_key_nothing_is_sent(receiver: Receiver, settings_with: SettingsWith, failed: Make) -> None:
    """A receiver with a signing key never gets an unsigned notification."""
    settings = settings_with(chat={"webhook": receiver.url, "hmac_secret_env": "NOTICE_SECRET_THAT_IS_NOT_SET"})
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed" and "NOTICE_SECRET_THAT_IS_NOT_SET" in delivery.detail
    assert receiver.bodies == []


def test_the_url_may_be_a_secret(
    receiver: Receiver, settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook's URL may contain a password, so it can be read from the environment."""
    monkeypatch.setenv("CHAT_URL", receiver.url)
    (delivery,) = send(settings_with(chat={"webhook_env": "CHAT_URL"}), failed)
    assert delivery.status == "sent" and len(receiver.bodies) == 1


@pytest.mark.parametrize("answer", [204, 404, "reset", "http://127.0.0.1:9/elsewhere", "hang"])
@pytest.mark.usefixtures("no_pauses")
def test_no_url_reaches_the_audit_log(
    answer: int | str, receiver: Receiver, settings_with: SettingsWith, failed: Make
) -> None:
    """Path and query may be a password; the log has the host only."""
    receiver.script = [answer]
    settings = settings_with(chat={"webhook": receiver.url, "timeout": "100ms", "retries": 0})
    reported: list[str] = []
    notices = Notifications(settings, reported.append)
    notices.announce(lambda: failed(settings))
    notices.finish()
    (event,) = events(settings)
    assert event["event"] == ("notice.sent" if answer == 204 else "notice.failed")
    assert (event["notice"], event["occasion"], event["attempts"]) == ("chat", "failed", 1)
    written = json.dumps(event) + " ".join(reported)
    assert "T0SECRETPATH" not in written and "querysecret" not in written


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:password@hooks.example:8443/T0/B0?x=1#y", "https://hooks.example:8443"),
        ("https://[::1]:80/x", "https://[::1]:80"),
        ("https://hooks.example", "https://hooks.example"),
        ("https://[broken/x", "the webhook's URL"),
        ("https://h:99999999/x", "the webhook's URL"),
        ("", "the webhook's URL"),
    ],
)
def test_only_the_host_of_a_url_is_shown(url: str, shown: str) -> None:
    """User name, password, path and query are left out."""
    assert shown_origin(url) == shown


def test_secrets_are_redacted_in_messages(
    settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a health endpoint or a gate may contain a secret."""
    monkeypatch.setenv("API_TOKEN", "hunter2hunter2")
    settings = settings_with(chat={"command": "true"})

    from release_tasks.stages.notifications.wording import about_failure

    notice = about_failure(settings, "release.recover", "answered hunter2hunter2\x1b[2J\u202e" + "x" * 5000)
    body = notification_bytes(notice)
    assert b"hunter2" not in body and len(body) < 8192
    assert json.loads(body)["detail"].startswith(r"answered [REDACTED]\x1b[2J\u202exxx")


def test_the_document_stays_small(settings_with: SettingsWith) -> None:
    """The limit holds for any number of diagnostics."""
    from release_tasks.stages.notifications.wording import about_failure

    settings = settings_with(chat={"command": "true"})
    notice = about_failure(settings, "release.rollback", "y" * 9999, diagnostics=["\N{PILE OF POO}" * 9999] * 999)
    assert len(notification_bytes(notice)) < 512 << 10 and len(notice.diagnostics) == 20


def test_the_page_shows_every_key(settings_with: SettingsWith, failed: Make) -> None:
    """docs/notifications.md has an example of the document and explains each key."""
    page = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    document = json.loads(notification_bytes(failed(settings_with(chat={"command": "true"}))))
    assert json.loads(example).keys() == document.keys()
    explained = set(re.findall(r"`(\w+)`", page.partition("## The document")[2].partition("```json")[0]))
    assert document.keys() <= explained
