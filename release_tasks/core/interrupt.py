"""Turn SIGINT and SIGTERM into one exception, and delay them during work that must not be interrupted."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from release_tasks.core.clock import awake
from release_tasks.core.errors import ExitCode, Interrupted

__all__ = ["LONGEST_WAIT", "interruptible", "next_item", "uninterrupted", "wait_for"]

T = TypeVar("T")

# The kernel may deliver a signal to any thread, and Python handles it when the main thread runs next. A main thread
# that waits in one system call would not handle it until that call returns, so a wait is split into slices of this
# many seconds.
LONGEST_WAIT = 0.05

_EXIT_CODES = {signal.SIGINT: ExitCode.SIGINT, signal.SIGTERM: ExitCode.SIGTERM}


def _raise_interrupted(number: int, _: FrameType | None) -> None:
    raise Interrupted(_EXIT_CODES[signal.Signals(number)])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted for SIGINT and SIGTERM while the block runs; has no effect outside the main thread."""
    with _handled_by(_raise_interrupted):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block has finished.

    Uses handlers and no signal mask: another thread could still get a signal that this thread masks. Outside the main
    thread nothing is needed, because Python runs handlers in the main thread only.
    """
    arrived: list[int] = []
    try:
        with _handled_by(lambda number, _: arrived.append(number)):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, former in before.items():
            if former is not None:  # None: the handler was set by C code, and Python cannot restore it
                signal.signal(number, former)


def wait_for(attempt: Callable[[float], T], seconds: float = float("inf"), now: Callable[[], float] = awake.now) -> T:
    """Call ``attempt`` until it returns a true value or ``seconds`` are over, and return its last value.

    ``attempt(slice)`` waits for at most ``slice`` seconds, as ``Event.wait`` does. It is called once more when the time
    is over. ``now`` is the clock that measures ``seconds``.
    """
    deadline = now() + seconds
    while True:
        remaining = max(deadline - now(), 0.0)
        result = attempt(min(remaining, LONGEST_WAIT))
        if result or remaining <= 0:
            return result


def next_item(items: queue.SimpleQueue[T], seconds: float) -> T | None:
    """Return the next item, or None when there is no item within ``seconds``."""

    def attempt(seconds: float) -> T | None:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=seconds)
        return None

    return wait_for(attempt, seconds)
