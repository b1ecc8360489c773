"""Threads that a limit of memory or processes may refuse: then the work runs in the calling thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

__all__ = ["pool", "run_aside", "start_if_possible"]


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
    """Return a pool of this many threads, or one that runs each call at once where no thread can be started."""
    probe = threading.Thread(target=lambda: None, daemon=True)
    return ThreadPoolExecutor(workers) if start_if_possible(probe) else _Immediate()


class _Immediate(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
