"""Network addresses: loopback check, listening socket, base URL."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket

from release_tasks.gateway.errors import GatewayError

__all__ = ["base_url", "bind", "check_host", "is_loopback", "names_loopback"]

# ``uri-host [ ":" port ]`` of RFC 9110, 7.2. A user name or a path is no part of it.
_HOST_HEADER = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(:[0-9]{0,5})?\Z", re.ASCII)


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a loopback address or the name ``localhost``."""
    if host.lower() in ("localhost", "localhost."):  # with the dot, no search domain is appended
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # A client of 127.0.0.1 has the address ::ffff:127.0.0.1 on a socket that is bound to ``::``.
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def names_loopback(host_header: str) -> bool:
    """Return whether a ``Host`` header names this machine by a loopback address or ``localhost``, with any port."""
    found = _HOST_HEADER.match(host_header)
    return found is not None and is_loopback(found["name"])


def check_host(host: str, *, allow_remote: bool) -> None:
    """Raise GatewayError when other machines could reach ``host`` and ``allow_remote`` is not set."""
    if not allow_remote and not is_loopback(host):
        raise GatewayError(
            f"The gateway does not listen on {host}: other machines could connect."
            " Use 127.0.0.1, or set gateway.allow_remote."
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``host`` and ``port`` (0: a free port); raises GatewayError."""
    target = f"port {port} on {host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise GatewayError(f"The gateway cannot use {target}: the address cannot be resolved.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # Without this option, a port stays in use for a minute after its last connection (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Immediately: with SO_REUSEADDR two processes can bind the same port, but only one can listen.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EADDRINUSE:
            reason = f"{target} is already in use. Stop the other process, or choose another port."
        elif code in (errno.EACCES, errno.EPERM):
            reason = f"permission denied for {target}. Choose a port from 1024 on."
        else:
            reason = f"{target} cannot be used: {error if code is None else os.strerror(code)}."
        raise GatewayError(f"The gateway cannot start: {reason}") from error
    return listener


def base_url(host: str, port: int) -> str:
    """Return the base URL of a gateway on ``host``; for a wildcard address, a loopback URL."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        if address.version == 6:
            host = f"[{host}]"
    return f"http://{host}:{port}"
