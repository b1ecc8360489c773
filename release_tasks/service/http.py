"""One HTTP request that ends on time, whatever the server does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping

from release_tasks.core.interrupt import wait_for
from release_tasks.service.answer import Answer, ProbeError

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
) -> Answer:
    """Send one request and return the answer, with at most ``max_bytes`` of its body.

    ``timeout``, in seconds, is for the whole exchange: name lookup, connecting, redirects on the
    same host and the last byte of the body. Proxies of the environment are not used. Raises
    ProbeError.
    """
    # Here, because requests takes longer to import than most commands take, and most of them send no request.
    from release_tasks.service import connection

    connection.origin(url)
    line = connection.Line()
    outcome: list[Answer | BaseException] = []
    done = threading.Event()

    def work() -> None:
        # Signals are the main thread's business, which may hold them back for a while.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            outcome.append(
                connection.send(
                    line, method, url, headers=headers or {}, body=body, timeout=timeout, max_bytes=max_bytes
                )
            )
        except BaseException as error:
            outcome.append(error)
        finally:
            line.close()
            done.set()

    # A thread, because a socket timeout starts anew with every byte and a name lookup has none.
    threading.Thread(target=work, name="probe", daemon=True).start()
    stopped = cancelled or threading.Event()
    try:
        wait_for(lambda seconds: done.wait(seconds) or stopped.is_set(), timeout)
        if not done.is_set():
            if stopped.is_set():
                raise ProbeError("other", f"{url} was not asked to the end: the run was stopped.")
            raise connection.timed_out(url, timeout)
    finally:
        line.cut()
    (result,) = outcome
    if isinstance(result, Answer):
        return result
    raise connection.explain(result, url, timeout) from None
