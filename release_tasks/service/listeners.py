"""The processes that listen at a URL of this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["local_listeners"]

_PORTS = {"http": 80, "https": 443}


def local_listeners(url: str) -> set[int] | None:
    """Return the ids of the processes that listen on the port of ``url``.

    Returns None when they are unknown: the host is no loopback address, or a process belongs to another user.
    """
    import psutil

    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if port is None or not _is_loopback(parts.hostname or ""):
        return None
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    found = {each.pid for each in connections if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,)}
    return None if None in found else {pid for pid in found if pid is not None}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
