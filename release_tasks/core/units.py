"""Parse and format single values: durations, sizes, shares, counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

__all__ = [
    "non_json_values",
    "parse_boolean",
    "parse_duration",
    "parse_integer",
    "parse_share",
    "parse_size",
    "parse_switch",
    "rough_span",
    "show_count",
    "show_counter",
    "show_duration",
    "show_mebibytes",
    "show_seconds",
    "show_share",
    "show_size",
    "show_span",
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(B|KiB|MiB|GiB|TiB)?", re.ASCII | re.IGNORECASE)
_MOST_BYTES = 1 << 60
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_duration(value: Any) -> float:
    """Return the seconds of ``30s``, ``10m``, ``1h``, ``500ms``, or of a number without a unit.

    Raises ValueError for any other value.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else -1.0
    if not 0 <= seconds < 1e9:
        raise ValueError(f"expected a duration such as 30s or 10m, got {value!r}")
    return seconds


def show_duration(seconds: float) -> str:
    """Return ``seconds`` in the notation of invoke.yaml: 90s, 10m, 1h, 250ms."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{int(seconds / _UNITS[unit])}{unit}"
    if seconds == 0:
        return "0s"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s" if seconds >= 1 else f"{round(seconds * 1000)}ms"


def parse_integer(value: Any, least: int = 0) -> int:
    """Return a whole number of at least ``least`` from a number or a text of digits; raises ValueError otherwise."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"expected a whole number, {least} or more, got {value!r}")
    return value


def parse_share(value: Any) -> float:
    """Return a share from 0 to 1, given as a number or as ``30%``; raises ValueError for any other value."""
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(match[1]) / (100 if match[2] else 1) if match else value
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(f"expected a share such as 0.3 or 30%, got {value!r}")
    return float(share)


def parse_size(value: Any) -> int:
    """Return the bytes of ``64MiB``, ``512 KiB``, ``1.5GiB``, or of a number without a unit.

    Raises ValueError for any other value, for a part of a byte, and for more than 1 EiB.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        powers = {unit.lower(): 1024**power for power, unit in enumerate(_SIZES)}
        size = Fraction(match[1]) * powers[(match[2] or "B").lower()]
    else:
        size = Fraction(value) if isinstance(value, int) and not isinstance(value, bool) else Fraction(-1)
    if size.denominator != 1 or not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"expected a size such as 64MiB or 1GiB, got {value!r}")
    return int(size)


def parse_switch(value: Any) -> str:
    """Return ``auto`` or ``off``; YAML reads an unquoted ``off`` as false. Raises ValueError for any other value."""
    if value is False:
        return "off"
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in ("auto", "off"):
        raise ValueError(f"expected auto or off, got {value!r}")
    return word


def show_share(share: float) -> str:
    """Return a share as a percentage: 30%, 0.5%."""
    return f"{share:.4%}".rstrip("%").rstrip("0").rstrip(".") + "%"


def parse_boolean(value: Any) -> bool:
    """Return a boolean from true/false, yes/no, on/off, 1/0; the value of an environment variable is text."""
    if isinstance(value, bool):
        return value
    known = _SWITCH.get(str(value).strip().lower()) if isinstance(value, (str, int)) else None
    if known is None:
        raise ValueError(f"expected true or false, got {value!r}")
    return known


def non_json_values(value: Any) -> Iterator[Any]:
    """Yield the values and keys at any depth of ``value`` that JSON does not support, for instance YAML's dates."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from non_json_values(inner)
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        yield value


def show_count(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 event``, ``2 events``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _power(count: int) -> int:
    """Return the index in ``_SIZES`` of the unit for ``count`` bytes."""
    return min(max(count.bit_length() - 1, 0) // 10, len(_SIZES) - 1)


def show_size(count: int) -> str:
    """Return a number of bytes in a short form: ``812 bytes``, ``40 KiB``, ``1.2 GiB``."""
    power = _power(count)
    if power == 0:
        return show_count(count, "byte")
    size = count / 1024**power
    is_whole = size == int(size) or size >= 100
    return f"{size:.{0 if is_whole and power < len(_SIZES) - 1 else 1}f} {_SIZES[power]}"


def show_counter(count: int, of: int | None = None) -> str:
    """Return a number of bytes with one decimal: ``1.0 MiB``. With ``of``, use the unit of ``of`` but omit its name."""
    power = _power(count if of is None else of)
    number = f"{count / 1024**power:.1f}" if power else str(count)
    return f"{number} {_SIZES[power]}" if of is None else number


def show_mebibytes(count: int) -> str:
    """Return a number of bytes in whole MiB, rounded up."""
    return f"{-(-count >> 20)} MiB"


def show_seconds(seconds: float) -> str:
    """Return a measured time in seconds: ``0.4 s``, ``125.0 s``."""
    return f"{seconds:.1f} s"


def show_span(seconds: float) -> str:
    """Return a length of time in a suitable unit: ``340 ms``, ``12.3 s``, ``2 min 05 s``, ``1 h 05 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return show_seconds(seconds)
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(seconds / 86400)} days"


def rough_span(seconds: float) -> str:
    """Return a rounded length of time: ``40 s``, ``12 min``, ``5 h``, ``3 days``; a negative one is ``0 s``."""
    for unit, size in (("days", 2 * 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // (86400 if unit == 'days' else size))} {unit}"
    return f"{max(int(seconds), 0)} s"
