"""Notices to a command: whatever it does, the stage that told it is not held up for long and learns nothing of it."""

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

pytestmark = pytest.mark.slow

Make = Callable[[Settings], Notification]
SettingsWith = Callable[..., Settings]


def send(settings: Settings, make: Make, told: list[str] | None = None) -> list[Delivery]:
    notices = Notifications(settings, [].append if told is None else told.append)
    notices.announce(lambda: make(settings))
    return notices.finish()


def events(settings: Settings) -> list[dict[str, Any]]:
    verdict = Pipeline(settings.release.root).audit.verify()
    assert verdict.intact
    return verdict.events


def marked(word: str) -> list[str]:
    """Processes that live and have ``word`` on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if word.encode() in Path("/proc", pid, "cmdline").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


def test_a_command_reads_the_document(settings_with: SettingsWith, failed: Make) -> None:
    """JSON on standard input, run in the project's folder."""
    settings = settings_with(pager={"command": "cat > told.json"})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("sent", 1)
    document = json.loads((settings.project / "told.json").read_bytes())
    assert (document["occasion"], document["snapshotId"]) == ("failed", "v1_snapshot")


@pytest.mark.parametrize(
    "command", ["true", "exec <&-; sleep 0.1", "head -c 1 >/dev/null", "cat /dev/stdin >/dev/null"]
)
def test_a_command_may_read_what_it_likes(command: str, settings_with: SettingsWith, failed: Make) -> None:
    """None of it, a byte, or its standard input closed: no broken pipe, no retry."""
    (delivery,) = send(settings_with(pager={"command": command}), failed)
    assert (delivery.status, delivery.attempts) == ("sent", 1)


@pytest.mark.usefixtures("no_pauses")
def test_a_command_that_fails_is_tried_again(settings_with: SettingsWith, failed: Make) -> None:
    """The same document each time, so that a receiver can see that it had it before."""
    settings = settings_with(pager={"command": "cat >> told; echo >> told; test $(wc -l < told) -ge 3"})
    (delivery,) = send(settings, failed)
    assert (delivery.status, delivery.attempts) == ("sent", 3)
    lines = (settings.project / "told").read_text().splitlines()
    assert len(lines) == 3 and len(set(lines)) == 1


@pytest.mark.usefixtures("no_pauses")
def test_a_command_that_is_not_there(settings_with: SettingsWith, failed: Make) -> None:
    """Said once, with what was not found; a second attempt would find as little."""
    told: list[str] = []
    (delivery,) = send(settings_with(pager={"command": "./page-nobody --now"}), failed, told)
    assert (delivery.status, delivery.attempts) == ("failed", 1)
    assert "command not found: ./page-nobody" in delivery.detail
    assert told[-1] == f"notification to pager was not delivered (1 attempt): {delivery.detail}"


@pytest.mark.parametrize("command", ["sleep 100", "trap '' TERM; sleep 100 & wait; sleep 100"])
def test_a_command_that_hangs_is_ended_whole(command: str, settings_with: SettingsWith, failed: Make) -> None:
    """With what it started, also when it ignores SIGTERM."""
    word = f"tag{uuid.uuid4().hex}"
    began = time.monotonic()
    settings = settings_with(pager={"command": f": {word}; {command}; :", "timeout": "300ms", "retries": 0})
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed" and "300ms (timeout)" in delivery.detail
    assert time.monotonic() - began < 50
    assert marked(word) == []


def test_a_child_in_the_background_holds_nothing_up(settings_with: SettingsWith, failed: Make) -> None:
    """It has two seconds more, and is ended then."""
    began = time.monotonic()
    (delivery,) = send(settings_with(pager={"command": "sleep 86399 & true"}), failed)
    assert delivery.status == "sent" and "left 1 process running" in delivery.detail
    assert time.monotonic() - began < 50
    assert marked("86399") == []


def test_a_child_in_the_background_may_finish(settings_with: SettingsWith, failed: Make) -> None:
    """A script that sends in the background has sent when that is over."""
    settings = settings_with(pager={"command": "(sleep 0.3; touch sent) & true"})
    (delivery,) = send(settings, failed)
    assert delivery.status == "sent" and (settings.project / "sent").exists()


def test_output_goes_to_a_log_without_secrets(
    settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not into the audit log, and not without end."""
    monkeypatch.setenv("PAGER_TOKEN", "hunter2hunter2")
    settings = settings_with(pager={"command": "echo key=$PAGER_TOKEN; yes | head -c 30000000; cat"})
    (delivery,) = send(settings, failed)
    assert delivery.status == "sent"
    (log,) = settings.release.root.glob("logs/notice-*/pager.log")
    assert log.read_bytes().startswith(b"key=[REDACTED]\n")
    assert log.stat().st_size < 20 << 20 and log.stat().st_mode & 0o777 == 0o600
    (event,) = events(settings)
    assert "no room" not in event["detail"]


def test_all_are_told_side_by_side(settings_with: SettingsWith, failed: Make) -> None:
    """Four that wait for one another all end; who has no interest in the occasion is not told."""
    all_began = " -a ".join(f"-e told{n}" for n in range(4))
    slow = {
        f"pager{n}": {"command": f"touch told{n}; until test {all_began}; do sleep 0.02; done", "timeout": "30s"}
        for n in range(4)
    }
    settings = settings_with(**slow, chat={"command": "touch chat", "when": ["prepared"]})
    deliveries = send(settings, failed)
    assert sorted(delivery.name for delivery in deliveries) == [f"pager{n}" for n in range(4)]
    assert {delivery.status for delivery in deliveries} == {"sent"}
    assert not (settings.project / "chat").exists()
    assert [event["event"] for event in events(settings)] == ["notice.sent"] * 4


def test_one_receiver_is_told_in_order(settings_with: SettingsWith, failed: Make) -> None:
    """What happened first is not overtaken, however quick the second is told."""
    settings = settings_with(pager={"command": "test -e told || sleep 0.5; cat >> told; echo >> told"})
    first, second = failed(settings), failed(settings)
    with Notifications(settings) as notices:
        notices.announce(lambda: first)
        notices.announce(lambda: second)
    lines = (settings.project / "told").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [first.id, second.id]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_sending_at_once(number: signal.Signals, settings_with: SettingsWith, failed: Make) -> None:
    """Nothing of the command is left, what became of it is on record, and the signal goes on its way."""
    word = f"tag{uuid.uuid4().hex}"
    settings = settings_with(pager={"command": f": {word}; touch begun; sleep 100; :", "timeout": "60s"})

    def interrupt() -> None:
        while not (settings.project / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    began = time.monotonic()
    with pytest.raises(Interrupted), interruptible(), Notifications(settings) as notices:
        notices.announce(lambda: failed(settings))
        threading.Thread(target=interrupt).start()
    assert time.monotonic() - began < 50
    assert marked(word) == []
    (event,) = events(settings)
    assert (event["event"], event["detail"]) == ("notice.failed", "stopped before it had a result")


def test_everything_is_given_up_in_the_end(
    settings_with: SettingsWith, failed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many retries and however long a timeout are configured."""
    monkeypatch.setattr(sending, "LONGEST", 0.5)
    settings = settings_with(pager={"command": "sleep 100", "timeout": "1h", "retries": 1000})
    began = time.monotonic()
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed"
    assert time.monotonic() - began < 50


def test_an_audit_log_that_cannot_be_written_changes_nothing(settings_with: SettingsWith, failed: Make) -> None:
    """It is said, and that is all."""
    settings = settings_with(pager={"command": "true"})
    (settings.release.root / "rollback-audit.log").mkdir(parents=True)
    told: list[str] = []
    (delivery,) = send(settings, failed, told)
    assert delivery.status == "sent"
    assert told[-1].startswith("notification to pager: the audit log cannot be written: ")


def test_a_defect_is_told_and_not_raised(settings_with: SettingsWith) -> None:
    """Neither of what is said nor of whoever listens."""
    settings = settings_with(pager={"command": "true"})
    told: list[str] = []

    def broken() -> Notification:
        raise ZeroDivisionError("no such thing")

    notices = Notifications(settings, told.append)
    notices.announce(broken)
    assert notices.finish() == []
    assert told == ["notifications: ZeroDivisionError: no such thing"]


def test_a_listener_that_fails_changes_nothing(settings_with: SettingsWith, failed: Make) -> None:
    """A terminal that hung up, for instance."""

    def hung_up(sentence: str) -> None:
        raise BrokenPipeError

    settings = settings_with(pager={"command": "false", "retries": 0})
    notices = Notifications(settings, hung_up)
    notices.announce(lambda: failed(settings))
    (delivery,) = notices.finish()
    assert delivery.status == "failed"


def test_a_folder_that_is_gone(settings_with: SettingsWith, failed: Make, tmp_path: Path) -> None:
    """A command without a place to run in is a notice that failed."""
    from attrs import evolve

    settings = evolve(settings_with(pager={"command": "true", "retries": 0}), project=tmp_path / "gone")
    (delivery,) = send(settings, failed)
    assert delivery.status == "failed" and "cannot be started" in delivery.detail
