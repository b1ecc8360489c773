"""SIGINT and SIGTERM as one exception, and stretches of work that they must not cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from release_tasks.core.errors import ExitCode, Interrupted

__all__ = ["interruptible", "uninterrupted"]

_EXIT_CODES = {signal.SIGINT: ExitCode.SIGINT, signal.SIGTERM: ExitCode.SIGTERM}


def _raise_interrupted(number: int, _: FrameType | None) -> None:
    raise Interrupted(_EXIT_CODES[signal.Signals(number)])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted while the block runs; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise_interrupted) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is done, then let them act.

    By handlers, not by a signal mask: another thread of the program could still take what this one masks. Outside the
    main thread nothing is needed, because Python runs handlers in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda got, _: arrived.append(got)) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by C code, which Python cannot put back
                signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
