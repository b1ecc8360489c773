"""Notifications to a command: no command can delay or change the stage for long."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import interruptible
from release_tasks.stages.notifications import sending
from release_tasks.stages.notifications.notification import Delivery, Notification
from release_tasks.stages.notifications.sending import Notifications
from tests.support.processes import processes_with

pytestmark = pytest.mark.slow

Make = Callable[[Settings], Notification]
SettingsWith = Callable[..., Settings]


def send(settings: Settings, make: Make, messages: list[str] | None = None) -> list[Delivery]:
    shown: list[str] = [] if messages is None else messages
    notifications = Notifications(settings, shown.append)
    notifications.announce(lambda: make(settings))
    return notifications.finish()


def events(settings: Settings) -> list[dict[str, Any]]:
    verdict = Pipeline(settings.release.root).audit.verify()
    assert verdict.intact
    return verdict.events


def test_a_command_reads_the_document(settings_with: SettingsWith, failed: Make) -> None:
    """The command gets JSON on standard input and runs in the project's folder."""
    settings = settings_with(pager={"command": "cat > messages.json"})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("sent", 1)
    document = json.loads((settings.project / "messages.json").read_bytes())
    assert (document["occasion"], document["snapshotId"]) == ("failed", "v1_snapshot")


@pytest.mark.parametrize(
    "command", ["true", "exec <&-; sleep 0.1", "head -c 1 >/dev/null", "cat /dev/stdin >/dev/null"]
)
def test_a_command_may_read_less_than_its_input(command: str, settings_with: SettingsWith, failed: Make) -> None:
    """It reads nothing, one byte, or closes its standard input: no broken pipe and no retry."""
    (delivery,) = send(settings_with(pager={"command": command}), failed)
    assert (delivery.status, delivery.attempts) == ("sent", 1)


@pytest.mark.usefixtures("no_pauses")
def test_a_failed_command_is_retried(settings_with: SettingsWith, failed: Make) -> None:
    """The document is the same each time, so that a receiver can drop duplicates."""
    settings = settings_with(pager={"command": "cat >> messages; echo >> messages; test $(wc -l < messages) -ge 3"})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("sent", 3)
    lines = (settings.project / "messages").read_text().splitlines()
    assert len(lines) == 3 and len(set(lines)) == 1


@pytest.mark.usefixtures("no_pauses")
def test_a_missing_command_is_reported_once(settings_with: SettingsWith, failed: Make) -> None:
    """The message names the command, and there is no retry."""
    messages: list[str] = []
    (delivery,) = send(settings_with(pager={"command": "./no-such-pager --now"}), failed, messages)
    assert (delivery.status, delivery.attempts) == ("failed", 1)
    assert "command not found: ./no-such-pager" in delivery.detail
    assert messages[-1] == f"notification to pager was not delivered (1 attempt): {delivery.detail}"


@pytest.mark.parametrize("command", ["sleep 100", "trap '' TERM; sleep 100 & wait; sleep 100"])
def test_a_hanging_command_is_ended_with_its_children(command: str, settings_with: SettingsWith, failed: Make) -> None:
    """This also holds when it ignores SIGTERM."""
    word = f"tag{uuid.uuid4().hex}"
    started = time.monotonic()
    settings = settings_with(pager={"command": f": {word}; {command}; :", "timeout": "300ms", "retries": 0})
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed" and "300ms (timeout)" in delivery.detail
    assert time.monotonic() - started < 50
    assert processes_with(word) == []


def test_a_background_child_has_a_grace_period(settings_with: SettingsWith, failed: Make) -> None:
    """The child has two more seconds, then it is ended."""
    started = time.monotonic()
    (delivery,) = send(settings_with(pager={"command": "sleep 86399 & true"}), failed)
    assert delivery.status == "sent" and "left 1 process running" in delivery.detail
    assert time.monotonic() - started < 50
    assert processes_with("86399") == []


def test_a_background_child_may_finish(settings_with: SettingsWith, failed: Make) -> None:
    """The notification is delivered when the background script ends."""
    settings = settings_with(pager={"command": "(sleep 0.3; touch sent) & true"})
    (delivery,) = send(settings, failed)
    assert delivery.status == "sent" and (settings.project / "sent").exists()


def test_output_goes_to_a_log_without_secrets(
    settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output does not go to the audit log, and the log is limited in size."""
    monkeypatch.setenv("PAGER_TOKEN", "hunter2hunter2")
    settings = settings_with(pager={"command": "echo key=$PAGER_TOKEN; yes | head -c 30000000; cat"})
    (delivery,) = send(settings, failed)
    assert delivery.status == "sent"
    (log,) = settings.release.root.glob("logs/notice-*/pager.log")
    assert log.read_bytes().startswith(b"key=[REDACTED]\n")
    assert log.stat().st_size < 20 << 20 and log.stat().st_mode & 0o777 == 0o600
    (event,) = events(settings)
    assert "no room" not in event["detail"]


def test_receivers_are_notified_in_parallel(settings_with: SettingsWith, failed: Make) -> None:
    """Four commands that wait for one another all end; a receiver of other events gets nothing."""
    all_began = " -a ".join(f"-e messages{n}" for n in range(4))
    slow = {
        f"pager{n}": {"command": f"touch messages{n}; until test {all_began}; do sleep 0.02; done", "timeout": "30s"}
        for n in range(4)
    }
    settings = settings_with(**slow, chat={"command": "touch chat", "when": ["prepared"]})
    deliveries = send(settings, failed)
    assert sorted(delivery.name for delivery in deliveries) == [f"pager{n}" for n in range(4)]
    assert {delivery.status for delivery in deliveries} == {"sent"}
    assert not (settings.project / "chat").exists()
    assert [event["event"] for event in events(settings)] == ["notice.sent"] * 4


def test_one_receiver_gets_notifications_in_order(settings_with: SettingsWith, failed: Make) -> None:
    """A later notification does not overtake an earlier one."""
    settings = settings_with(pager={"command": "test -e messages || sleep 0.5; cat >> messages; echo >> messages"})
    first, second = failed(settings), failed(settings)
    with Notifications(settings) as notifications:
        notifications.announce(lambda: first)
        notifications.announce(lambda: second)
    lines = (settings.project / "messages").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [first.id, second.id]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_delivery(number: signal.Signals, settings_with: SettingsWith, failed: Make) -> None:
    """The command is ended, the outcome is recorded, and the signal is re-raised."""
    word = f"tag{uuid.uuid4().hex}"
    settings = settings_with(pager={"command": f": {word}; touch begun; sleep 100; :", "timeout": "60s"})

    def interrupt() -> None:
        while not (settings.project / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    started = time.monotonic()
    with pytest.raises(Interrupted), interruptible(), Notifications(settings) as notifications:
        notifications.announce(lambda: failed(settings))
        threading.Thread(target=interrupt).start()
    assert time.monotonic() - started < 50
    assert processes_with(word) == []
    (event,) = events(settings)
    assert (event["event"], event["detail"]) == ("notice.failed", "stopped before it had a result")


def test_delivery_has_a_total_time_limit(
    settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for any number of retries and any timeout."""
    monkeypatch.setattr(sending, "LONGEST", 0.5)
    settings = settings_with(pager={"command": "sleep 100", "timeout": "1h", "retries": 1000})
    started = time.monotonic()
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed"
    assert time.monotonic() - started < 50


def test_an_unwritable_audit_log_changes_nothing(settings_with: SettingsWith, failed: Make) -> None:
    """The failure is reported."""
    settings = settings_with(pager={"command": "true"})
    (settings.release.root / "rollback-audit.log").mkdir(parents=True)
    messages: list[str] = []
    (delivery,) = send(settings, failed, messages)
    assert delivery.status == "sent"
    assert messages[-1].startswith("notification to pager: the audit log cannot be written: ")


def test_a_defect_is_reported_and_not_raised(settings_with: SettingsWith) -> None:
    """A defect in the message or in the listener does not end the stage."""
    settings = settings_with(pager={"command": "true"})
    messages: list[str] = []

    def broken() -> Notification:
        raise ZeroDivisionError("no such thing")

    notifications = Notifications(settings, messages.append)
    notifications.announce(broken)
    assert notifications.finish() == []
    assert messages == ["notifications: ZeroDivisionError: no such thing"]


def test_a_failing_listener_changes_nothing(settings_with: SettingsWith, failed: Make) -> None:
    """A closed terminal is an example."""

    def hung_up(message: str) -> None:
        raise BrokenPipeError

    settings = settings_with(pager={"command": "false", "retries": 0})
    notifications = Notifications(settings, hung_up)
    notifications.announce(lambda: failed(settings))
    (delivery,) = notifications.finish()
    assert delivery.status == "failed"


def test_a_missing_project_folder_is_a_failed_notification(
    settings_with: SettingsWith, failed: Make, tmp_path: Path
) -> None:
    """The command has no folder to run in."""
    from attrs import evolve

    settings = evolve(settings_with(pager={"command": "true", "retries": 0}), project=tmp_path / "gone")
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed" and "cannot be started" in delivery.detail
