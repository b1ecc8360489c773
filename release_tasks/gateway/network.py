"""Network addresses: loopback check, listening socket, base URL."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from release_tasks.gateway.errors import GatewayError

__all__ = ["base_url", "bind", "check_host", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a loopback address or the name ``localhost``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
