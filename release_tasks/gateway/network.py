"""Addresses: what counts as loopback, how a port is taken, what a URL looks like."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from release_tasks.gateway.errors import GatewayError

__all__ = ["bind", "check_host", "is_loopback", "url_of"]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; of names, only localhost counts."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, *, allow_remote: bool) -> None:
    """Raise GatewayError when others could reach ``host`` and nobody said that they may."""
    if not allow_remote and not is_loopback(host):
        raise GatewayError(
            f"The gateway does not listen on {host}: other machines could reach it there."
            " Use 127.0.0.1, or allow remote access explicitly."
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``host`` and ``port`` (0: any free one); raises GatewayError."""
    where = f"port {port} on {host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise GatewayError(f"The gateway cannot use {where}: the address is not known.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it a port stays taken for a minute after its last connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: two processes may both bind a port this way, and only one of them may listen.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EADDRINUSE:
            reason = f"{where} is already in use. Stop what uses it, or choose another port."
        elif code in (errno.EACCES, errno.EPERM):
            reason = f"this user may not use {where}. Choose a port from 1024 on."
        else:
            reason = f"{where} cannot be used: {error if code is None else os.strerror(code)}."
        raise GatewayError(f"The gateway cannot start: {reason}") from error
    return listener


def url_of(host: str, port: int) -> str:
    """Return the base URL of a gateway on ``host``; a wildcard is reached by loopback."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        if address.version == 6:
            host = f"[{host}]"
    return f"http://{host}:{port}"
