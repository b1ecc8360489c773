"""Turn the signals that stop a program into one exception, and delay them during work that must not be interrupted."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

from release_tasks.core.clock import awake
from release_tasks.core.errors import ExitCode, Interrupted

__all__ = [
    "LONGEST_WAIT",
    "STOP_SIGNALS",
    "SignalHandler",
    "deferring_signals",
    "interruptible",
    "next_item",
    "signals_handled_by",
    "uninterrupted",
    "wait_for",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
SignalHandler = Callable[[int, "FrameType | None"], object]

# SIGHUP: the terminal closed. SIGINT: Ctrl-C. SIGQUIT: Ctrl-\. SIGTERM: kill, a supervisor, a CI runner.
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# The kernel may deliver a signal to any thread, and Python handles it when the main thread runs next. A main thread
# that waits in one system call would not handle it until that call returns, so a wait is split into slices of this
# many seconds.
LONGEST_WAIT = 0.05

# Seconds after a signal in which further signals are dropped, so that they cannot break the clean-up. Not for ever:
# Python drops an exception that is raised in a destructor.
_CLEAN_UP_SECONDS = 10.0

# Seconds in which the main thread has to handle a signal.
_STUCK_SECONDS = 5.0
_SAME_SIGNAL_SECONDS = 1.0

_active: SignalHandler | None = None  # the handler of the innermost block; only the main thread uses it
_outside: dict[signal.Signals, Any] = {}  # the handlers from before the outermost block
_is_watched = False
_handled_at = float("-inf")
_forking = threading.local()
_deferring: set[CodeType] = set()


class _Raising:
    """Raises Interrupted for the first signal; signals during the clean-up after it are dropped."""

    def __init__(self) -> None:
        self._raised_at = float("-inf")

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised_at >= _CLEAN_UP_SECONDS:
            self._raised_at = now
            raise Interrupted(ExitCode.of_signal(number))


class _Delaying:
    """Collects signals."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.arrived.append(number)


class _Switch:
    """Passes a signal to ``handler``, which can be replaced for all signals at once."""

    def __init__(self, handler: SignalHandler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global _handled_at
        _handled_at = time.monotonic()
        if _is_deferring(frame):
            threading.Timer(LONGEST_WAIT, signal.raise_signal, (number,)).start()
        else:
            self.handler(number, frame)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted for the first of STOP_SIGNALS that arrives while the block runs.

    A second signal does not interrupt the clean-up after the first. When the main thread is in a call that does not
    end, such as a read from a disk that does not answer, the process ends as after SIGKILL, with the code of the
    signal. Has no effect inside another ``interruptible`` or ``uninterrupted`` block, outside the main thread, and for
    a signal that is ignored, as SIGHUP is under nohup.
    """
    if isinstance(_active, (_Raising, _Delaying)):
        yield
        return
    if threading.current_thread() is threading.main_thread():
        _watch_signals()
    with signals_handled_by(_Raising()):
        yield


def _watch_signals() -> None:
    """Let a thread see each signal, for the rest of the process, unless an event loop does so.

    Python runs a handler between two instructions of the main thread, but C code writes the number of each signal to
    the "wakeup" descriptor at once.
    """
    global _is_watched
    if _is_watched:
        return
    _is_watched = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watch = threading.Thread(target=_end_if_stuck, args=(reading,), name="signals", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started
        watch.start()
        former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if former != -1:
            signal.set_wakeup_fd(former)


def _end_if_stuck(reading: int) -> None:
    """End the process when a block ``interruptible`` gets a signal and the main thread does not handle it."""
    while numbers := os.read(reading, 64):
        arrived = time.monotonic()
        for number in set(numbers).intersection(STOP_SIGNALS):
            while isinstance(_active, _Raising) and _handled_at < arrived - _SAME_SIGNAL_SECONDS:
                if time.monotonic() - arrived >= _STUCK_SECONDS:
                    name = signal.Signals(number).name
                    message = f"Interrupted by {name}: a call to the system did not end. The next command cleans up.\n"
                    with contextlib.suppress(OSError):
                        os.write(2, message.encode())
                    os._exit(ExitCode.of_signal(number))
                time.sleep(LONGEST_WAIT)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay STOP_SIGNALS until the block has finished.

    Uses handlers and no signal mask: another thread could still get a signal that this thread masks. Outside the main
    thread nothing is needed, because Python runs handlers in the main thread only.
    """
    handler = _Delaying()
    try:
        with signals_handled_by(handler):
            yield
    finally:
        for number in dict.fromkeys(handler.arrived):
            signal.raise_signal(number)


def deferring_signals(function: F) -> F:
    """Handle STOP_SIGNALS that arrive while ``function`` runs after it has returned.

    For a function that C code calls, and through which no exception can pass. It must not wait for anything.
    """
    _deferring.add(function.__code__)
    return function


def _is_deferring(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code not in _deferring:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def signals_handled_by(handler: SignalHandler) -> Iterator[None]:
    """Handle STOP_SIGNALS with ``handler`` while the block runs; has no effect outside the main thread.

    A signal that is ignored stays ignored, and one that C code handles is left to it: Python could not give it back.
    The former handlers are restored.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    replaced = {number: before for number, before in former.items() if before not in (signal.SIG_IGN, None)}
    outer, _active = _active, handler
    if outer is None:
        _outside.update(replaced)
    late = _Delaying()
    switch = _Switch(handler)
    try:
        for number in replaced:
            signal.signal(number, switch)
        yield
    finally:
        switch.handler = late  # a handler that raises now would leave the others in place
        for number, before in replaced.items():
            signal.signal(number, before)
        _active = outer
        if outer is None:
            _outside.clear()
        for arrived in late.arrived:
            signal.raise_signal(arrived)


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    """Give the signals the effect that they had before all blocks.

    In a process that was forked without exec, as multiprocessing does: the work and the processes of the parent are
    not the child's, and ``terminate`` must end it. The signals are blocked until then, because Python drops those that
    arrive right after a fork.
    """
    global _active, _is_watched
    _active = None
    _is_watched = False
    for number, before in _outside.items():
        signal.signal(number, before)
    _outside.clear()
    with contextlib.suppress(ValueError):  # a thread has forked
        signal.set_wakeup_fd(-1)  # the parent's
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


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
