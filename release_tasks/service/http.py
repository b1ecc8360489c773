"""An HTTP request with a time limit for the whole exchange."""

from __future__ import annotations

import signal
import threading

from release_tasks.core.clock import awake
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import STOP_SIGNALS, wait_for
from release_tasks.core.threads import run_aside
from release_tasks.service.request import Request
from release_tasks.service.response import HttpResponse, ProbeError

__all__ = ["fetch"]

_REPEATABLE = ("GET", "HEAD")  # a repeated POST might act twice


def fetch(request: Request, *, cancelled: threading.Event | None = None) -> HttpResponse:
    """Send ``request`` and return the response, with at most ``max_bytes`` of its body.

    The request's timeout limits the whole exchange: name lookup, connecting, redirects on the same host and the body up
    to its last byte. Proxy settings of the environment are ignored. Setting ``cancelled`` ends the request. A GET or
    HEAD request during which this process was suspended says nothing about the service, neither by its error nor by its
    latency: it is repeated once. Raises ProbeError.
    """
    # Imported here: requests takes longer to import than most commands take to run, and few of them send a request.
    from release_tasks.service import connection

    connection.require_sendable(request)
    cancelled = cancelled or threading.Event()
    skipped = awake.skipped()
    result = _exchange(request, cancelled)
    if request.method in _REPEATABLE and awake.skipped() > skipped and not cancelled.is_set():
        result = _exchange(request, cancelled)
    if isinstance(result, ProbeError):
        raise result
    return result


def _exchange(request: Request, cancelled: threading.Event) -> HttpResponse | ProbeError:
    from release_tasks.service import connection

    abortable = connection.AbortableConnection()
    outcome: list[HttpResponse | BaseException] = []
    finished = threading.Event()

    def work() -> None:
        if threading.current_thread() is not threading.main_thread():
            # The main thread handles these signals, and may defer them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            outcome.append(connection.send(abortable, request))
        except BaseException as error:
            outcome.append(error)
        finally:
            abortable.close()
            finished.set()

    # A thread, because a socket timeout restarts with every byte and a name lookup has no timeout.
    run_aside(work, "probe")
    try:
        wait_for(lambda seconds: finished.wait(seconds) or cancelled.is_set(), request.timeout)
        if not finished.is_set():
            if cancelled.is_set():
                return ProbeError("other", f"The request to {request.shown} was cancelled: the run was stopped.")
            return connection.timeout_error(request)
    finally:
        abortable.abort()
    (result,) = outcome
    if isinstance(result, (Interrupted, KeyboardInterrupt)):  # the work ran in the main thread
        raise result
    return result if isinstance(result, HttpResponse) else connection.probe_error(result, request)
