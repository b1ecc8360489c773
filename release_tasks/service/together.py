"""Work in threads of its own, so that several requests take the time of the slowest."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from release_tasks.core.interrupt import STOP_SIGNALS, wait_for
from release_tasks.core.threads import start_if_possible

__all__ = ["begin", "together"]

T = TypeVar("T")


def begin(work: Callable[[], T]) -> Callable[[], T]:
    """Start ``work`` in a daemon thread, and return a function that waits for its result or raises its exception."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        if threading.current_thread() is not threading.main_thread():
            # Blocked here, so that the main thread receives them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="request", daemon=True)
    if not start_if_possible(thread):
        run()

    def has_ended(seconds: float) -> bool:
        if thread.is_alive():
            thread.join(seconds)
        return not thread.is_alive()

    def result() -> T:
        wait_for(has_ended)
        if errors:
            raise errors[0]
        return results[0]

    return result


def together(work: Sequence[Callable[[], T]]) -> list[T]:
    """Return the results of all calls, which run at the same time, in their order."""
    if not work:
        return []
    first, *others = work
    waiting = [begin(each) for each in others]
    return [first(), *(wait() for wait in waiting)]
