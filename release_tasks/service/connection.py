"""An HTTP request on a connection that another thread can abort, and the translation of its errors."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from release_tasks.core.units import show_duration
from release_tasks.service.response import HttpResponse, ProbeError

__all__ = ["AbortableConnection", "origin", "probe_error", "send", "timeout_error"]

_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}


class AbortableConnection:
    """The connection of a request, which another thread can abort."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def attach(self, sock: socket.socket) -> None:
        """Register a new socket; after ``abort`` it is shut down immediately."""
        with self._lock:
            # A duplicate, because TLS and http.client may close or detach their own socket at any time.
            self.close()
            self._socket = socket.socket(fileno=os.dup(sock.fileno()))
        if self._is_aborted:
            self.abort()

    def abort(self) -> None:
        """Shut the connection down, which wakes a thread that waits for the server. A second call does nothing."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the duplicated descriptor."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class _Adapter(HTTPAdapter):
    """An adapter that attaches every new socket to an AbortableConnection."""

    def __init__(self, abortable: AbortableConnection) -> None:
        self._abortable = abortable
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        abortable = self._abortable

        def pool(pool_class: type, connection_class: type) -> type:
            def connect(self: Any) -> None:
                connection_class.connect(self)  # type: ignore[attr-defined]
                abortable.attach(self.sock)

            connection = type("Connection", (connection_class,), {"connect": connect})
            return type("Pool", (pool_class,), {"ConnectionCls": connection})

        self.poolmanager.pool_classes_by_scheme = {
            "http": pool(HTTPConnectionPool, HTTPConnection),
            "https": pool(HTTPSConnectionPool, HTTPSConnection),
        }


class _Session(requests.Session):
    """A session without settings of the environment. It follows no redirects, because requests reads their bodies."""

    def __init__(self, abortable: AbortableConnection) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(abortable))

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def send(
    abortable: AbortableConnection,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout: float,
    max_bytes: int,
) -> HttpResponse:
    """Send one request, follow its redirects on the same host, and return the response.

    Attaches each socket to ``abortable``. ``timeout``, in seconds, limits a wait between two bytes; the caller limits
    the whole request and aborts the connection. Raises ProbeError, or an error that ``probe_error`` translates.
    """
    started = time.monotonic()
    # Without this header a server may compress, and 1 MiB of compressed data can expand to 1 GiB.
    headers = {"Accept-Encoding": "identity", "Connection": "close", **headers}
    with _Session(abortable) as session:
        current = url
        for _ in range(_MAX_REDIRECTS + 1):
            remaining = max(started + timeout - time.monotonic(), 0.001)
            with session.request(
                method,
                current,
                headers=headers,
                data=body,
                stream=True,
                allow_redirects=False,
                timeout=remaining,
            ) as response:
                target = response.headers.get("Location")
                if response.status_code in _REDIRECTS and target:
                    current = _same_host(current, target)
                    if response.status_code == 303:
                        method, body = "GET", None
                    session.close()  # some servers ignore "Connection: close"
                    continue
                data = _read(response, max_bytes)
                return HttpResponse(
                    status=response.status_code,
                    content_type=response.headers.get("Content-Type", ""),
                    body=bytes(data[:max_bytes]),
                    is_truncated=len(data) > max_bytes,
                    elapsed_ms=round((time.monotonic() - started) * 1000),
                    url=current,
                )
    raise ProbeError("redirect", f"{url} redirects more than {_MAX_REDIRECTS} times.")


def _read(response: requests.Response, max_bytes: int) -> bytearray:
    data = bytearray()
    while len(data) <= max_bytes:
        chunk = response.raw.read(min(65536, max_bytes + 1 - len(data)), decode_content=False)
        if not chunk:
            break
        data += chunk
    return data


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port; raises ProbeError unless ``url`` is an http(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    is_http = parts.scheme in ("http", "https")
    if not is_http or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise ProbeError("invalid", f"{url!r} is not an http:// or https:// URL.")
    return parts.scheme, parts.hostname.lower(), port


def _same_host(url: str, location: str) -> str:
    target = re.sub(r"[\x00-\x1f\x7f]", "", location).strip()
    try:
        target = urljoin(url, target)
        is_same = origin(target) == origin(url)
    except (ProbeError, ValueError):
        is_same = False
    if not is_same:
        raise ProbeError("redirect", f"{url} redirects to another host: {target[:300]}. The redirect is not followed.")
    return target


def timeout_error(url: str, timeout: float) -> ProbeError:
    """Return the error for a request without a complete response in ``timeout`` seconds."""
    return ProbeError("timeout", f"{url} gave no complete response within {show_duration(timeout)}.")


def probe_error(error: BaseException, url: str, timeout: float) -> ProbeError:
    """Translate an error of requests, urllib3 or the socket module, which may wrap one another."""
    if isinstance(error, ProbeError):
        return error
    causes = list(_causes(error))

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if has(requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        reason = next((c.verify_message for c in causes if hasattr(c, "verify_message")), "")
        return ProbeError("tls", f"{url}: the TLS connection failed{reason and f' ({reason})'}.")
    if has(ConnectionRefusedError):
        return ProbeError("refused", f"{url} refused the connection: no process listens on this port.")
    if has(socket.gaierror):
        return ProbeError("other", f"{url}: the host name {urlsplit(url).hostname} cannot be resolved.")
    if has(requests.exceptions.Timeout, TimeoutError):
        return timeout_error(url, timeout)
    if has(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        return ProbeError("invalid", f"{url!r} is not an http:// or https:// URL.")
    if has(ConnectionError, urllib3.exceptions.IncompleteRead):
        # A port forwarded to a service that is still starting behaves like this.
        return ProbeError("refused", f"{url} closed the connection before its response was complete.")
    numbered = (c.strerror for c in causes if isinstance(c, OSError) and c.strerror and c.errno)
    reason = next(numbered, "the response is not valid HTTP")
    return ProbeError("other", f"The request to {url} failed: {reason}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [getattr(current, "reason", None), *current.args]
        pending += [item for item in inner if isinstance(item, BaseException)]
        pending += [current.__cause__, current.__context__]
