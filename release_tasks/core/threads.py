"""Threads that a limit of memory or processes may refuse: then the work runs in the calling thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Literal, TypeVar

from release_tasks.core.interrupt import wait_for

__all__ = ["pool", "run_aside", "start_if_possible"]

T = TypeVar("T")

_GRACE_SECONDS = 1.0  # for calls that react to a cancellation


def run_aside(work: Callable[[], object], name: str) -> None:
    """Run ``work`` in a daemon thread; where none can be started, run it here before returning."""
    if not start_if_possible(threading.Thread(target=work, name=name, daemon=True)):
        work()


def start_if_possible(thread: threading.Thread) -> bool:
    """Start ``thread``; return False where no thread can be started (``ulimit -u``, ``ulimit -v``)."""
    with contextlib.suppress(RuntimeError):
        thread.start()
        return True
    return False


def pool(workers: int) -> Executor:
    """Return a pool of this many threads, or one that runs each call at once where no thread can be started.

    When a block ``with pool(...)`` ends by an exception, calls that do not end are left behind, and the process can
    exit without them: a call can wait for a disk or a pipe for ever, and a signal must end the command.
    """
    probe = threading.Thread(target=lambda: None, daemon=True)
    return _Pool(workers) if start_if_possible(probe) else _Immediate()


class _Pool(Executor):
    """Threads of ThreadPoolExecutor are no daemons: Python waits for them, also when it exits."""

    def __init__(self, workers: int) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._free = workers
        self._threads: list[threading.Thread] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def call(caught: type[BaseException] = BaseException) -> None:
            if future.set_running_or_notify_cancel():
                _complete(future, caught, lambda: fn(*args, **kwargs))

        if self._free:
            self._free -= 1
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            if start_if_possible(thread):
                self._threads.append(thread)
        if self._threads:
            self._calls.put(call)
        else:
            call(Exception)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._end()
        if wait:
            wait_for(self._join)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> Literal[False]:
        self._end()
        wait_for(self._join, float("inf") if kind is None else _GRACE_SECONDS)
        return False

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _end(self) -> None:
        for _ in self._threads:
            self._calls.put(None)

    def _join(self, seconds: float) -> bool:
        for thread in self._threads:
            if thread.is_alive():
                thread.join(seconds)
                break
        return not any(thread.is_alive() for thread in self._threads)


class _Immediate(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        _complete(future, Exception, lambda: fn(*args, **kwargs))
        return future


def _complete(future: Future[T], caught: type[BaseException], call: Callable[[], T]) -> None:
    """Set the result of a call; an exception that is not ``caught``, as that of a signal, is raised here."""
    try:
        future.set_result(call())
    except caught as error:
        future.set_exception(error)
