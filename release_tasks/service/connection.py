"""An HTTP request on a connection that another thread can abort, and the translation of its errors."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.units import show_duration
from release_tasks.core.url import origin_of, shown_url, socket_of
from release_tasks.service.request import Request
from release_tasks.service.response import HttpResponse, ProbeError

__all__ = ["AbortableConnection", "probe_error", "require_sendable", "send", "timeout_error"]

_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_TLS_HINTS = {"WRONG_VERSION_NUMBER": ": the server does not answer with TLS. Write http:// if it has none"}
# The beginnings of OpenSSL's messages X509_V_ERR_... about a certificate whose issuer is not trusted.
_UNKNOWN_CA = ("self-signed certificate", "self signed certificate", "unable to get")


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
    """An adapter that attaches every new socket to an AbortableConnection, and may connect to a Unix socket."""

    def __init__(self, abortable: AbortableConnection, socket_path: str | None) -> None:
        self._abortable = abortable
        self._socket_path = socket_path
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        abortable, path = self._abortable, self._socket_path

        def pool(pool_class: type, connection_class: type) -> type:
            def connect(self: Any) -> None:
                connection_class.connect(self)  # type: ignore[attr-defined]
                abortable.attach(self.sock)

            def new_connection(self: Any) -> socket.socket:
                return _connect_to_socket(path, self.timeout) if path else connection_class._new_conn(self)  # type: ignore[attr-defined]

            members = {"connect": connect, "_new_conn": new_connection}
            return type("Pool", (pool_class,), {"ConnectionCls": type("Connection", (connection_class,), members)})

        self.poolmanager.pool_classes_by_scheme = {
            "http": pool(HTTPConnectionPool, HTTPConnection),
            "https": pool(HTTPSConnectionPool, HTTPSConnection),
        }


def _connect_to_socket(path: str, timeout: float) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        connected.connect(path)
    except BaseException:
        connected.close()
        raise
    return connected


class _Session(requests.Session):
    """A session without settings of the environment. It follows no redirects, because requests reads their bodies."""

    def __init__(self, abortable: AbortableConnection, request: Request) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(request.ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or "") or True
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(abortable, socket_of(request.url)))

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def require_sendable(request: Request) -> None:
    """Raise ProbeError of the kind ``invalid`` unless the request's URL is one."""
    try:
        origin_of(request.url)
    except ValueError:
        raise ProbeError("invalid", f"{request.shown!r} is not an http:// or https:// URL.") from None


def send(abortable: AbortableConnection, request: Request) -> HttpResponse:
    """Send one request, follow its redirects on the same host, and return the response.

    Attaches each socket to ``abortable``. The request's timeout limits a wait between two bytes; the caller limits the
    whole request and aborts the connection. Raises ProbeError, or an error that ``probe_error`` translates.
    """
    started = time.monotonic()
    # Without this header a server may compress, and 1 MiB of compressed data can expand to 1 GiB.
    headers = {"Accept-Encoding": "identity", "Connection": "close", **request.headers}
    method, body, limit = request.method, request.body, request.max_bytes
    with _Session(abortable, request) as session:
        current = start = _sent_url(request.url)
        for _ in range(_MAX_REDIRECTS + 1):
            remaining = max(started + request.timeout - time.monotonic(), 0.001)
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
                if request.follows_redirects and response.status_code in _REDIRECTS and target:
                    current = _same_host(current, target, request)
                    if response.status_code == 303:
                        method, body = "GET", None
                    session.close()  # some servers ignore "Connection: close"
                    continue
                data = _read(response, limit)
                return HttpResponse(
                    status=response.status_code,
                    content_type=response.headers.get("Content-Type", ""),
                    body=bytes(data[:limit]),
                    is_truncated=len(data) > limit,
                    elapsed_ms=round((time.monotonic() - started) * 1000),
                    url=request.url if current == start else current,
                )
    raise ProbeError("redirect", f"{request.shown} redirects more than {_MAX_REDIRECTS} times.")


def _sent_url(url: str) -> str:
    """Return ``url``; for a Unix socket, the URL that its server sees."""
    return url if socket_of(url) is None else "http://localhost" + re.sub(r"^[^:]+://[^/?]*", "", url)


def _read(response: requests.Response, max_bytes: int) -> bytearray:
    data = bytearray()
    while len(data) <= max_bytes:
        chunk = response.raw.read(min(65536, max_bytes + 1 - len(data)), decode_content=False)
        if not chunk:
            break
        data += chunk
    return data


def _same_host(url: str, location: str, request: Request) -> str:
    target = re.sub(r"[\x00-\x1f\x7f]", "", location).strip()
    try:
        target = urljoin(url, target)
        is_same = origin_of(target) == origin_of(url)
    except ValueError:
        is_same = False
    if not is_same:
        shown = excerpt_line(shown_url(target), 300)
        raise ProbeError(
            "redirect", f"{request.shown} redirects to another host: {shown}. The redirect is not followed."
        )
    return target


def timeout_error(request: Request) -> ProbeError:
    """Return the error for a request without a complete response in its time."""
    return ProbeError("timeout", f"{request.shown} gave no complete response within {show_duration(request.timeout)}.")


def probe_error(error: BaseException, request: Request) -> ProbeError:
    """Translate an error of requests, urllib3 or the socket module, which may wrap one another."""
    if isinstance(error, ProbeError):
        return error
    causes = list(_causes(error))
    shown, path = request.shown, socket_of(request.url)

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if has(requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        return ProbeError("tls", f"{shown}: the TLS connection failed{_tls_reason(causes, request)}.")
    if path is not None and has(ConnectionRefusedError, FileNotFoundError):
        return _socket_error(path, shown)
    if has(ConnectionRefusedError):
        return ProbeError("refused", f"{shown} refused the connection: no process listens on this port.")
    if has(socket.gaierror):
        return ProbeError("other", f"{shown}: the host name {urlsplit(request.url).hostname} cannot be resolved.")
    if has(requests.exceptions.Timeout, TimeoutError):
        return timeout_error(request)
    if has(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        return ProbeError("invalid", f"{shown!r} is not an http:// or https:// URL.")
    if has(ConnectionError, urllib3.exceptions.IncompleteRead):
        # A port forwarded to a service that is still starting behaves like this.
        return ProbeError("refused", f"{shown} closed the connection before its response was complete.")
    numbered = (c.strerror for c in causes if isinstance(c, OSError) and c.strerror and c.errno)
    reason = next(numbered, "the response is not valid HTTP")
    return ProbeError("other", f"The request to {shown} failed: {reason}.")


def _socket_error(path: str, shown: str) -> ProbeError:
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return ProbeError("refused", f"{shown} refused the connection: the socket {path} does not exist.")
    if not is_socket:
        return ProbeError("other", f"{shown} cannot be asked: {path} is not a socket.")
    return ProbeError("refused", f"{shown} refused the connection: no process listens on the socket {path}.")


def _tls_reason(causes: list[BaseException], request: Request) -> str:
    """Return the reason in brackets, and what to do about it, as far as OpenSSL names one."""
    found = next((cause for cause in causes if getattr(cause, "reason", None) in _TLS_HINTS), None)
    hint = _TLS_HINTS[found.reason] if found is not None else ""  # type: ignore[attr-defined]
    message = str(next((cause.verify_message for cause in causes if hasattr(cause, "verify_message")), ""))
    message = message.rstrip(".")
    if message.startswith(_UNKNOWN_CA):
        hint = ". If its certificate is from a certification authority of your own, set ca_file"
        if request.ca_file is not None:
            hint = f". {request.ca_file} does not contain the certification authority of the server"
    return f"{message and f' ({message})'}{hint}"


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
