"""Sizes and times as a person reads them."""

from __future__ import annotations

__all__ = ["size", "span"]


def size(count: int) -> str:
    """Return a number of bytes with the unit that suits it: ``812 bytes``, ``40 KiB``, ``1.2 GiB``."""
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def span(seconds: float) -> str:
    """Return a length of time as precise as it matters: ``340 ms``, ``12.3 s``, ``2 min 05 s``, ``1 h 05 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(seconds / 86400)} days"
