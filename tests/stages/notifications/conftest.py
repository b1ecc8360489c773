"""A real webhook receiver whose answers a script sets, and a notification to send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import Settings
from release_tasks.stages.notifications import sending
from release_tasks.stages.notifications.notification import Notification, new_notification
from release_tasks.tasks.project import load_settings
from tests.support.webhook_receiver import Receiver


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    """Return a maker of webhooks on free loopback ports."""
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    """Return a webhook that accepts everything."""
    return make_receiver()


@pytest.fixture
def settings_with(tmp_path: Path) -> Callable[..., Settings]:
    """Return a maker of settings with these notifications, in a scratch project."""

    def make(**notices: Any) -> Settings:
        return load_settings({"release": {"root": "pipeline", "app": {"name": "demo"}, "notices": notices}}, tmp_path)

    return make


@pytest.fixture
def failed() -> Callable[[Settings], Notification]:
    """Return a maker of a notification about a failed rollback."""

    def make(settings: Settings) -> Notification:
        return new_notification(
            settings,
            "failed",
            stage="release.rollback",
            status="failed",
            text="the rollback to v1_snapshot failed: no room",
            detail="no room",
            release_id="v1",
            snapshot_id="v1_snapshot",
            next="inv release.diagnose",
            diagnostics=["no room"],
        )

    return make


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without a pause."""
    monkeypatch.setattr(sending, "FIRST_PAUSE_SECONDS", 0.01)
