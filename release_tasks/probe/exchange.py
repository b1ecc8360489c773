"""One HTTP request that ends on time, whatever the server does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from attrs import frozen
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from release_tasks.config.values import show_duration
from release_tasks.errors import StageFailed

__all__ = ["Answer", "ProbeError", "ProbeErrorKind", "fetch"]

ProbeErrorKind = Literal["refused", "timeout", "redirect", "tls", "invalid", "other"]

_MAX_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_POLL = 0.05  # seconds between two looks at `cancelled`


class ProbeError(StageFailed):
    """No usable answer came; ``kind`` says why and ``message`` says it in a sentence."""

    def __init__(self, kind: ProbeErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ProbeErrorKind = kind


@frozen(kw_only=True)
class Answer:
    """What a server answered; ``body`` holds the first bytes only when it ``is_truncated``."""

    status: int
    content_type: str
    body: bytes
    is_truncated: bool
    elapsed_ms: int
    url: str

    @property
    def text(self) -> str:
        """The body as text, with U+FFFD for what is not UTF-8."""
        return self.body.decode("utf-8", "replace")


class _Line:
    """The connection of a request; it can be hung up from another thread at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def connected(self, sock: socket.socket) -> None:
        with self._lock:
            # A duplicate, because TLS and http.client may close or detach their own at any time.
            self._close()
            self._socket = socket.socket(fileno=os.dup(sock.fileno()))
        if self._is_cut:
            self.cut()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Adapter(HTTPAdapter):
    """Tells a _Line about every connection that is made."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        line = self._line

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                line.connected(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                line.connected(self.sock)

        pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": Plain}),
            "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": Secure}),
        }
        self.poolmanager.pool_classes_by_scheme = pools


class _Session(requests.Session):
    """A session that leaves redirects alone: requests would read their whole body first."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


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
    _origin(url)
    line = _Line()
    outcome: list[Answer | BaseException] = []
    done = threading.Event()

    def work() -> None:
        # Signals are the main thread's business, which may hold them back for a while.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            outcome.append(_exchange(line, url, timeout, max_bytes, headers or {}, method, body))
        except BaseException as error:
            outcome.append(error)
        finally:
            line.close()
            done.set()

    # A thread, because a socket timeout starts anew with every byte and a name lookup has none.
    threading.Thread(target=work, name="probe", daemon=True).start()
    end = time.monotonic() + timeout
    try:
        while not done.wait(min(_POLL, max(end - time.monotonic(), 0.0))):
            if cancelled is not None and cancelled.is_set():
                raise ProbeError("other", f"{url} was not asked to the end: the run was stopped.")
            if time.monotonic() >= end:
                raise _timed_out(url, timeout)
    finally:
        line.cut()
    (result,) = outcome
    if isinstance(result, Answer):
        return result
    raise _explain(result, url, timeout) from None


def _exchange(
    line: _Line,
    url: str,
    timeout: float,
    max_bytes: int,
    headers: Mapping[str, str],
    method: str,
    body: bytes | None,
) -> Answer:
    started = time.monotonic()
    # Without this a server may compress, and 1 MiB of that can unpack to a gigabyte.
    headers = {"Accept-Encoding": "identity", "Connection": "close", **headers}
    with _Session() as session:
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.mount("http://", _Adapter(line))
        session.mount("https://", _Adapter(line))
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
                    session.close()  # not every server hangs up when it was asked to
                    continue
                data = _read(response, max_bytes)
                return Answer(
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


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    is_web = parts.scheme in ("http", "https")
    if not is_web or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise ProbeError("invalid", f"{url!r} is not an http:// or https:// URL.")
    return parts.scheme, parts.hostname.lower(), port


def _same_host(url: str, location: str) -> str:
    target = re.sub(r"[\x00-\x1f\x7f]", "", location).strip()
    try:
        target = urljoin(url, target)
        is_same = _origin(target) == _origin(url)
    except (ProbeError, ValueError):
        is_same = False
    if not is_same:
        raise ProbeError("redirect", f"{url} redirects to another host, {target[:300]}, which is not followed.")
    return target


def _timed_out(url: str, timeout: float) -> ProbeError:
    return ProbeError("timeout", f"{url} gave no complete answer within {show_duration(timeout)}.")


def _explain(error: BaseException, url: str, timeout: float) -> ProbeError:
    """Turn what requests, urllib3 and the socket raise, wrapped in one another, into a sentence."""
    if isinstance(error, ProbeError):
        return error
    causes = list(_causes(error))

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if has(requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        reason = next((c.verify_message for c in causes if hasattr(c, "verify_message")), "")
        return ProbeError("tls", f"{url}: the TLS connection failed{reason and f' ({reason})'}.")
    if has(ConnectionRefusedError):
        return ProbeError("refused", f"{url} refused the connection: nothing listens there.")
    if has(socket.gaierror):
        return ProbeError("other", f"{url}: the host name {urlsplit(url).hostname} is not known.")
    if has(requests.exceptions.Timeout, TimeoutError):
        return _timed_out(url, timeout)
    if has(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        return ProbeError("invalid", f"{url!r} is not an http:// or https:// URL.")
    if has(ConnectionError, urllib3.exceptions.IncompleteRead):
        # A port that is forwarded to a service that still starts behaves like this.
        return ProbeError("refused", f"{url} closed the connection before its answer was complete.")
    numbered = (c.strerror for c in causes if isinstance(c, OSError) and c.strerror and c.errno)
    reason = next(numbered, "the answer is not valid HTTP")
    return ProbeError("other", f"{url} cannot be asked: {reason}.")


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
