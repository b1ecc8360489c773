"""A log has a line about every wait, also about one without events."""

from __future__ import annotations

import io
import time

import pytest

from release_tasks.core.events import Emit, GateBegan, GateEnded, SampleTaken, StepBegan
from release_tasks.report import heartbeat
from release_tasks.report.heartbeat import Heartbeat
from release_tasks.report.progress import PlainLines
from release_tasks.report.screen import Screen
from tests.support.releases import PASSED


class Log:
    """The lines of a stage on a clock that the test sets."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.now = 0.0
        self._capsys = capsys
        self.display = Heartbeat(PlainLines(Screen(io.StringIO())), lambda: self.now)
        self.emit: Emit = self.display

    def after(self, seconds: float) -> list[str]:
        """Let time pass, and return the new lines."""
        self.now += seconds
        self.display.beat()
        return self._capsys.readouterr().err.splitlines()


def test_a_quiet_step_is_named_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """With the time since its start."""
    log = Log(capsys)
    log.emit(StepBegan("stop", "systemctl stop app"))
    assert log.after(9) == ["> stop systemctl stop app"]
    assert log.after(1) == ["> still running: stop systemctl stop app, 10 s"]
    assert log.after(5) == []
    assert log.after(5) == ["> still running: stop systemctl stop app, 20 s"]


def test_gates_that_run_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A gate that has ended is not."""
    log = Log(capsys)
    log.emit(GateBegan("build"))
    log.emit(GateBegan("tests"))
    assert log.after(12)[-1] == "> still running: gate build, 12 s; gate tests, 12 s"
    log.emit(GateEnded(PASSED))
    assert log.after(10)[-1] == "> still running: gate tests, 22 s"


def test_the_time_between_two_samples_is_no_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """A watch with a long interval writes a line for each sample alone."""
    log = Log(capsys)
    assert log.after(10) == ["> still running: the start, 10 s"]
    log.emit(SampleTaken(time="2026-01-01T00:00:00.000Z", finding="ok"))
    log.after(1)
    assert log.after(60) == []


def test_it_ends_with_the_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread writes by itself, and nothing after the end."""
    monkeypatch.setattr(heartbeat, "_QUIET", 0.05)
    monkeypatch.setattr(heartbeat, "_TICK", 0.01)
    with Heartbeat(PlainLines(Screen(io.StringIO()))) as emit:
        emit(StepBegan("health"))
        seen, deadline = "", time.monotonic() + 30
        while "still running: health" not in seen and time.monotonic() < deadline:
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert "still running: health" in seen
    emit._thread.join(30)
    assert not emit._thread.is_alive()
