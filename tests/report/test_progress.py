"""The displays: lines in a log, and a live display on a terminal that leaves lines only."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from release_tasks.core.events import (
    BytesMoved,
    GateBegan,
    GateEnded,
    HealthAnswered,
    Noted,
    SampleTaken,
    StepBegan,
    shielded,
)
from release_tasks.core.records import Check, HealthReport
from release_tasks.report.display import display_for
from release_tasks.report.progress import LiveDisplay, PlainLines
from release_tasks.report.screen import Screen

MIB = 1 << 20
TERMINAL = {"TERM": "xterm", "LANG": "C.UTF-8"}
REFUSED = HealthReport(passed=False, status="unreachable", url="http://x", detail="refused", attempts=4)


class Terminal:
    """A pseudo-terminal; a program writes to ``stream``."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding=encoding)
        self.shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # every writer has closed it
                return
            self.shown += data

    def wait_for(self, text: str) -> None:
        """Wait until ``text`` was printed."""
        until = time.monotonic() + 10
        while text.encode() not in self.shown and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> bytes:
        """Return everything that was printed."""
        if not self.stream.closed:
            self.stream.close()
        self._reader.join()
        return self.shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Return a maker of terminals that replace stderr, each with its own environment."""
    opened: list[Terminal] = []

    def make(encoding: str = "utf-8", **variables: str) -> Terminal:
        for name in ("NO_COLOR", "CI", "TERM", "LC_ALL", "LC_CTYPE", "LANG", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {**TERMINAL, **variables}.items():
            monkeypatch.setenv(name, value)
        opened.append(Terminal(encoding))
        monkeypatch.setattr(sys, "stderr", opened[-1].stream)
        return opened[-1]

    yield make
    for one in opened:
        one.close()
        os.close(one.master)


def check(gate: str, status: str = "passed", detail: str = "") -> Check:
    """Return a check with this result."""
    return Check(id=gate, subsystem=gate, status=status, detail=detail)  # type: ignore[arg-type]


def emit_everything(display: Callable[..., None]) -> None:
    """Emit one event of each kind, and start two steps that do not end."""
    display(Noted("There is no ready release here."))
    display(StepBegan("verify", "v1_snapshot"))
    display(BytesMoved("verify", "database", 3 * MIB, 4 * MIB))
    display(GateBegan("build"))
    display(GateEnded(check("build", "failed", "exit code 1")))
    display(HealthAnswered(REFUSED, 0, 3, 57.0))
    display(
        SampleTaken(time="2026-11-22T08:37:41.000Z", finding="bad", health="failed", latency_ms=12, why=["HTTP 500"])
    )
    display(StepBegan("swap"))
    display(GateBegan("tests"))
    display(BytesMoved("restore", "database", MIB, 4 * MIB))


@pytest.mark.parametrize(
    "variables",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}, {"CI": "true"}],
    ids=lambda variables: "=".join(*variables.items()),
)
def test_a_terminal_without_live_display_gets_lines(
    terminal: Callable[..., Terminal], variables: dict[str, str]
) -> None:
    """There is no escape, and a line for each start and end."""
    seen = terminal(**variables)
    with display_for(Screen(io.StringIO())) as display:
        emit_everything(display)
    shown = seen.close()
    assert b"\x1b" not in shown
    assert shown.decode().splitlines() == [
        "> There is no ready release here.",
        "> verify v1_snapshot",
        "> gate build",
        "> gate build: failed",
        "> 2026-11-22T08:37:41.000Z  bad  failed  12 ms  HTTP 500",
        "> swap",
        "> gate tests",
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": ""}, {"CI": "false"}, {"CI": ""}], ids=str)
def test_an_empty_variable_does_not_count(terminal: Callable[..., Terminal], variables: dict[str, str]) -> None:
    """NO_COLOR counts when it is not empty, CI when it is not false."""
    terminal(**variables)
    assert isinstance(display_for(Screen(io.StringIO())), LiveDisplay)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_a_terminal_keeps_lines_and_its_cursor(
    terminal: Callable[..., Terminal], error: type[BaseException] | None
) -> None:
    """Finished lines stay; the live display is cleared at the end, however it ends."""
    seen = terminal()
    raised = None
    try:
        with display_for(Screen(io.StringIO())) as display:
            emit_everything(display)
            display(HealthAnswered(REFUSED, 0, 3, 57.0))
            seen.wait_for("restore database")
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError) as caught:
        raised = type(caught)
    shown = seen.close().decode()
    assert raised is error
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "attempt 4, 57 s left: refused" in shown.replace("56 s", "57 s")
    assert "restore database" in shown and "1.0 of 4.0 MiB" in shown
    settled = shown[shown.rindex("\x1b[?25h") :]
    assert "restore" not in settled and "> swap" in settled


@pytest.mark.parametrize("follows", [True, False])
def test_gate_lines_go_where_the_answer_repeats_them(terminal: Callable[..., Terminal], follows: bool) -> None:
    """While gates run the terminal shows the finished ones; with the table on the same terminal they do not stay."""
    seen = terminal()
    with display_for(Screen(seen.stream), answers_here=follows) as display:
        display(GateEnded(check("build", "failed", "exit code 1")))
        seen.wait_for("exit code 1")
        display(Noted("the end"))
    shown = seen.close().decode()
    settled = shown[shown.rindex("\x1b[?25h") :] if follows else shown
    assert ("gate build: failed" in settled) is not follows
    assert "the end" in shown


def test_gate_lines_stay_where_an_error_ends_the_run(terminal: Callable[..., Terminal]) -> None:
    """No answer follows then."""
    seen = terminal()
    with contextlib.suppress(KeyboardInterrupt), display_for(Screen(seen.stream), answers_here=True) as display:
        display(GateEnded(check("build", "failed", "exit code 1")))
        seen.wait_for("exit code 1")
        raise KeyboardInterrupt
    shown = seen.close().decode()
    assert "gate build: failed" in shown[shown.rindex("\x1b[?25h") :]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_ascii_terminal_gets_ascii_only(terminal: Callable[..., Terminal], encoding: str) -> None:
    """This includes bars, spinner and marks; other characters are replaced."""
    seen = terminal(encoding, LC_ALL="C")
    with display_for(Screen(io.StringIO())) as display:
        emit_everything(display)
        display(StepBegan("verify", "caf\u00e9 \u65e5"))
        display(GateEnded(check("lint")))
    shown = seen.close().decode(encoding)
    data = {"ascii": "caf? ?", "latin-1": "caf\u00e9 ?", "utf-8": "caf\u00e9 \u65e5"}[encoding]
    assert f"> verify {data}" in shown
    assert shown.replace(data, "").isascii()
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "+ gate lint: passed" in plain and "x gate build: failed" in plain


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """A capture of a minute, with an event for each MiB, prints six lines with numbers."""
    now = 0.0
    lines = PlainLines(Screen(io.StringIO()), lambda: now)
    lines(StepBegan("capture", "v1_snapshot"))
    for done in range(600):
        now = done / 10
        lines(BytesMoved("capture", "database", done * MIB, 600 * MIB))
    lines(StepBegan("health"))
    for attempt in range(30):
        now += 1
        lines(HealthAnswered(REFUSED, 0, 1, 60.0 - attempt))
    printed = capsys.readouterr().err.splitlines()
    assert printed[:2] == ["> capture v1_snapshot", "> capture: 100.0 of 600.0 MiB, 10.0 MiB/s, 50 s left"]
    assert len([line for line in printed if "MiB" in line]) == 5
    assert next(line for line in printed if "attempt" in line) == "> health: attempt 4, 58 s left: refused"
    assert len([line for line in printed if "attempt" in line]) == 3  # after 2, 12 and 22 seconds


@pytest.mark.parametrize("gone", ["reader", "terminal", "file"])
def test_a_closed_stream_is_ignored(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """EPIPE of a pipe, EIO of a terminal, EBADF: nothing is raised."""
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = pty.openpty() if gone == "terminal" else os.pipe()
    stream = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    with display_for(Screen(io.StringIO())) as display:
        assert isinstance(display, LiveDisplay) == (gone == "terminal")
        display(StepBegan("recover"))
        os.close(reader)
        if gone == "file":
            os.dup2(os.open(os.devnull, os.O_RDONLY), writer)
        emit_everything(display)
    stream.close()


def test_a_failing_consumer_does_not_end_a_stage() -> None:
    """Its exception is dropped, except one that ends a program."""

    def explode(event: object) -> None:
        raise KeyboardInterrupt if event == StepBegan("stop") else RuntimeError

    shielded(explode)(StepBegan("swap"))
    with pytest.raises(KeyboardInterrupt):
        shielded(explode)(StepBegan("stop"))
