"""An HTTP request with a time limit for the whole exchange."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping

from release_tasks.core.interrupt import wait_for
from release_tasks.service.response import HttpResponse, ProbeError

__all__ = ["fetch"]

_MAX_BYTES = 1 << 20


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
    Raises ProbeError.
    """
    # Imported here: requests takes longer to import than most commands take to run, and few of them send a request.
    from release_tasks.service import connection

    connection.origin(url)
    abortable = connection.AbortableConnection()
    outcome: list[HttpResponse | BaseException] = []
    finished = threading.Event()

    def work() -> None:
        # The main thread handles these signals, and may defer them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            outcome.append(
                connection.send(
                    abortable, method, url, headers=headers or {}, body=body, timeout=timeout, max_bytes=max_bytes
                )
            )
        except BaseException as error:
            outcome.append(error)
        finally:
            abortable.close()
            finished.set()

    # A thread, because a socket timeout restarts with every byte and a name lookup has no timeout.
    threading.Thread(target=work, name="probe", daemon=True).start()
    stopped = cancelled or threading.Event()
    try:
        wait_for(lambda seconds: finished.wait(seconds) or stopped.is_set(), timeout)
        if not finished.is_set():
            if stopped.is_set():
                raise ProbeError("other", f"The request to {url} was cancelled: the run was stopped.")
            raise connection.timeout_error(url, timeout)
    finally:
        abortable.abort()
    (result,) = outcome
    if isinstance(result, HttpResponse):
        return result
    raise connection.probe_error(result, url, timeout) from None
