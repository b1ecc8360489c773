"""An HTTP request with a time limit for the whole exchange."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Mapping

from release_tasks.core.clock import awake
from release_tasks.core.interrupt import STOP_SIGNALS, wait_for
from release_tasks.service.response import HttpResponse, ProbeError

__all__ = ["fetch"]

_MAX_BYTES = 1 << 20
_REPEATABLE = ("GET", "HEAD")  # a repeated POST might act twice


def fetch(
    url: str,
    *,
    timeout: float,
    max_bytes: int = _MAX_BYTES,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
    cancelled: threading.Event | None = None,
) -> HttpResponse:
    """Send one request and return the response, with at most ``max_bytes`` of its body.

    ``timeout``, in seconds, limits the whole exchange: name lookup, connecting, redirects on the same host and the
    body up to its last byte. Proxy settings of the environment are ignored. Setting ``cancelled`` ends the request.
    A GET or HEAD request during which this process was suspended says nothing about the service, neither by its error
    nor by its latency: it is repeated once. Raises ProbeError.
    """
    # Imported here: requests takes longer to import than most commands take to run, and few of them send a request.
    from release_tasks.service import connection

    connection.origin(url)
    cancelled = cancelled or threading.Event()

    exchange = functools.partial(
        _exchange,
        url,
        timeout=timeout,
        max_bytes=max_bytes,
        headers=headers or {},
        method=method,
        body=body,
        cancelled=cancelled,
    )
    skipped = awake.skipped()
    result = exchange()
    if method in _REPEATABLE and awake.skipped() > skipped and not cancelled.is_set():
        result = exchange()
    if isinstance(result, ProbeError):
        raise result
    return result


def _exchange(
    url: str,
    *,
    timeout: float,
    max_bytes: int,
    headers: Mapping[str, str],
    method: str,
    body: bytes | None,
    cancelled: threading.Event,
) -> HttpResponse | ProbeError:
    from release_tasks.service import connection

    abortable = connection.AbortableConnection()
    outcome: list[HttpResponse | BaseException] = []
    finished = threading.Event()

    def work() -> None:
        # The main thread handles these signals, and may defer them.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            outcome.append(
                connection.send(
                    abortable, method, url, headers=headers, body=body, timeout=timeout, max_bytes=max_bytes
                )
            )
        except BaseException as error:
            outcome.append(error)
        finally:
            abortable.close()
            finished.set()

    # A thread, because a socket timeout restarts with every byte and a name lookup has no timeout.
    threading.Thread(target=work, name="probe", daemon=True).start()
    try:
        wait_for(lambda seconds: finished.wait(seconds) or cancelled.is_set(), timeout)
        if not finished.is_set():
            if cancelled.is_set():
                return ProbeError("other", f"The request to {url} was cancelled: the run was stopped.")
            return connection.timeout_error(url, timeout)
    finally:
        abortable.abort()
    (result,) = outcome
    return result if isinstance(result, HttpResponse) else connection.probe_error(result, url, timeout)
