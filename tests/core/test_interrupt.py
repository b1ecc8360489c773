"""Signals end a wait immediately, whichever thread the kernel delivers them to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psutil
import pytest

from release_tasks.core import interrupt
from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import LONGEST_WAIT, STOP_SIGNALS, interruptible, next_item, uninterrupted, wait_for


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[list[int]]:
    """Give each signal a handler of the host program, which collects what it gets; it must be in place at the end."""
    arrived: list[int] = []

    def collect(number: int, _: object) -> None:
        arrived.append(number)

    before = {number: signal.signal(number, collect) for number in STOP_SIGNALS}
    yield arrived
    left = {number: signal.signal(number, former) for number, former in before.items()}
    assert set(left.values()) == {collect}


def test_signal_delivered_to_another_thread_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait in one system call would last its full time."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(other.ident or 0, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(Interrupted) as caught, interruptible():
            wait_for(threading.Event().wait, 30)
    finally:
        done.set()
    assert caught.value.exit_code is ExitCode.SIGINT
    assert time.monotonic() - start < 5
    for thread in (timer, other):
        thread.join()


def test_wait_returns_as_soon_as_the_item_exists() -> None:
    """It returns the item immediately."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    timer = threading.Timer(0.1, answers.put, ["done"])
    timer.start()
    assert next_item(answers, 30) == "done"
    assert next_item(answers, 0) is None
    assert next_item(answers, -1) is None
    answers.put("already queued")
    assert next_item(answers, 0) == "already queued"
    timer.join()


def test_wait_lasts_its_time_in_short_slices() -> None:
    """It ends neither early nor never; a clock that jumps forward ends it."""
    now, slices = [0.0], []

    def pause(seconds: float) -> None:
        slices.append(seconds)
        now[0] += seconds or 1

    wait_for(pause, 1.0, lambda: now[0])
    assert sum(slices) == pytest.approx(1.0) and max(slices) <= LONGEST_WAIT
    pauses: list[float] = []

    def sleep_on(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += 3600

    wait_for(sleep_on, 60.0, lambda: now[0])
    assert len(pauses) == 2 and pauses[-1] == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGQUIT, 131), (signal.SIGTERM, 143)],
)
def test_each_signal_ends_a_block_with_its_code(own_handlers: list[int], number: signal.Signals, code: int) -> None:
    """128 plus the number; the handler of the host program gets nothing."""
    with pytest.raises(Interrupted) as caught, interruptible():
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert own_handlers == []


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_uninterrupted_block_delays_each_signal(own_handlers: list[int], number: signal.Signals) -> None:
    """It arrives once, after the block, also when it came twice."""
    with uninterrupted():
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert own_handlers == []
    assert own_handlers == [number]


def test_every_signal_of_an_uninterrupted_block_arrives(own_handlers: list[int]) -> None:
    """A host program with handlers of its own loses none of them."""
    with uninterrupted():
        for number in reversed(STOP_SIGNALS):
            signal.raise_signal(number)
    assert own_handlers == list(reversed(STOP_SIGNALS))


def test_a_second_signal_does_not_break_the_clean_up() -> None:
    """Also when the clean-up itself is a nested block, or waits."""
    cleaned = []
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in STOP_SIGNALS:
                signal.raise_signal(number)
            with interruptible():
                signal.raise_signal(signal.SIGHUP)
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
    assert caught.value.exit_code is ExitCode.SIGTERM
    assert cleaned == [True]


def test_a_signal_that_was_lost_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops an exception in a destructor; a later signal ends the block."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(Interrupted), interruptible():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # within the clean-up
        now[0] = 11.0
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the block continued")


def test_nothing_interrupts_a_block_inside_an_uninterrupted_one(own_handlers: list[int]) -> None:
    """The swap calls code that is interruptible elsewhere."""
    done = []
    with uninterrupted(), interruptible():
        signal.raise_signal(signal.SIGHUP)
        done.append(True)
    assert (done, own_handlers) == ([True], [signal.SIGHUP])


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_ignored_signal_is_still_ignored(number: signal.Signals) -> None:
    """As under nohup, or in a job that a shell started in the background."""
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(number)
            with uninterrupted():
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, handler)


def test_outside_the_main_thread_nothing_changes(own_handlers: list[int]) -> None:
    """Python runs handlers in the main thread, and lets no other thread set them."""
    found: list[object] = []

    def work() -> None:
        with interruptible(), uninterrupted():
            found.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert own_handlers == [signal.SIGTERM]
    assert len(set(found)) == 1


@pytest.mark.parametrize("block", [interruptible, uninterrupted])
def test_a_forked_process_has_the_signals_of_before(block: Callable[[], AbstractContextManager[None]]) -> None:
    """As multiprocessing starts one in a deploy or a plugin: ``terminate`` ends it, and nothing of this process."""
    collecting = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with block(), block():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
            child.start()
            child.terminate()
            child.join(30)
            code = child.exitcode
            child.kill()
    finally:
        signal.signal(signal.SIGTERM, collecting)
    assert code == -signal.SIGTERM


STORM = r"""
import os, signal, sys, threading, time
from release_tasks.core.interrupt import STOP_SIGNALS, interruptible, uninterrupted
from release_tasks.core.errors import Interrupted

steps, whole, ended = [], 0, 0
arrived = []
for number in STOP_SIGNALS:
    signal.signal(number, lambda number, _: arrived.append(number))
threading.Thread(target=lambda: [print(flush=True), sys.stdin.read(), os._exit(9)], daemon=True).start()
until = time.monotonic() + 1.0
while time.monotonic() < until:
    try:
        with interruptible():
            with uninterrupted():
                steps.append(1)
                time.sleep(0.001)
                steps.append(2)
            time.sleep(0.001)
    except Interrupted:
        ended += 1
assert steps == [1, 2] * (len(steps) // 2), "half a step"
assert ended > 3, ended
assert all(signal.getsignal(number).__name__ == "<lambda>" for number in STOP_SIGNALS), "handlers were lost"
os.write(1, b"whole\n")
os._exit(0)
"""


@pytest.mark.slow
def test_a_storm_of_signals_never_halves_a_step() -> None:
    """All four signals, many times a second, at any instruction: each step is whole, and the handlers are restored."""
    process = subprocess.Popen(
        [sys.executable, "-c", STORM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    count = 0
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, STOP_SIGNALS[count % len(STOP_SIGNALS)])
        count += 1
        time.sleep(0.0003)
    out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == ("whole\n", "", 0)


# Runs in SQLite, and not in Python, for ever.
_IN_A_CALL = """
import sqlite3, sys
from release_tasks.core import interrupt
interrupt._STUCK_SECONDS = float(sys.argv[1])
endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
with interrupt.interruptible():
    print("ready", flush=True)
    sqlite3.connect(":memory:").execute(endless).fetchall()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_in_a_call_without_an_end(number: signal.Signals) -> None:
    """The handler of Python cannot run, so the process ends with the code of the signal, and says why."""
    command = [sys.executable, "-c", _IN_A_CALL, "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        before = psutil.Process(process.pid).cpu_times().user
        while psutil.Process(process.pid).cpu_times().user < before + 0.05:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.startswith(f"Interrupted by {number.name}: a call to the system did not end.")


def test_an_uninterrupted_block_is_not_ended(own_handlers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap of state takes as long as it takes."""
    monkeypatch.setattr(interrupt, "_STUCK_SECONDS", 0.1)
    with pytest.raises(Interrupted), interruptible():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                pass
        pytest.fail("the signal was lost")
