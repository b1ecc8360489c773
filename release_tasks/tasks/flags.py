"""Typed flags: how each is read, and how what was typed takes the place of what is configured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from release_tasks.core.errors import UsageError

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings

T = TypeVar("T")

__all__ = ["duration_flag", "number_flag", "path_flag", "text_flag", "url_flag", "with_flags", "words_flag"]


def with_flags(
    settings: Settings,
    *,
    health_url: str | None = None,
    strict: bool | None = None,
    reliability_url: str | None = None,
    restart_command: str | None = None,
    retention: int | None = None,
    length: float | None = None,
    interval: float | None = None,
    rollback: bool | None = None,
) -> Settings:
    """Return ``settings`` with what was typed in its place; None stands for a flag that was not typed.

    ``length`` and ``interval`` are those of the watch, in seconds; ``rollback`` lets it roll back, and ``strict`` fails
    the health gate of a degraded service. Raises UsageError, which names the flag.
    """
    from attrs import evolve

    for name, seconds in (("for", length), ("interval", interval)):
        if seconds is not None and seconds <= 0:
            raise UsageError(f"--{name}: expected a duration above 0.")
    if retention is not None and retention < 1:
        raise UsageError(f"--retention: expected a whole number, 1 or more, got {retention}.")
    typed: dict[str, dict[str, Any]] = {
        "health": {"url": url_flag("health-url", health_url), "strict": strict},
        "reliability": {"url": url_flag("reliability-url", reliability_url)},
        "restart": {"command": text_flag("restart-command", restart_command)},
        "watch": {"for_": length, "interval": interval, "rollback": rollback},
    }
    release = settings.release
    changed: dict[str, Any] = {} if retention is None else {"retention": retention}
    for section, options in typed.items():
        given = {key: value for key, value in options.items() if value is not None}
        changed[section] = evolve(getattr(release, section), **given)
    return evolve(settings, release=evolve(release, **changed))


def duration_flag(name: str, value: str | None) -> float | None:
    """Return seconds for a typed duration, or None when the flag was not typed; raises UsageError that names it."""
    from release_tasks.core.units import parse_duration

    return None if value is None else _parsed(name, value, parse_duration)


def number_flag(name: str, value: str, least: int = 1) -> int:
    """Return a typed whole number of at least ``least``; raises UsageError that names the flag."""
    from release_tasks.core.units import parse_integer

    return _parsed(name, value, lambda typed: parse_integer(typed, least))


def _parsed(name: str, value: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}.") from None


def text_flag(name: str, value: str | None) -> str | None:
    """Return a typed text, or None when the flag was not typed; raises UsageError for an empty one."""
    if value is not None and not value.strip():
        raise UsageError(f"--{name}: expected a value, got nothing.")
    return value


def path_flag(name: str, value: str, what: str) -> Path:
    """Return a typed path, absolute; raises UsageError where it is no ``what``: the ~ of a user who is not known."""
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"--{name}: {value!r} is no {what}: {error}") from None


def url_flag(name: str, value: str | None) -> str | None:
    """Return a typed URL, or None when the flag was not typed; raises UsageError for anything else."""
    if value is not None and not value.startswith(("http://", "https://")):
        raise UsageError(f"--{name}: expected an http:// or https:// URL, got {value!r}.")
    return value


def words_flag(values: list[str] | None) -> list[str]:
    """Return the words of a flag that may be repeated and may hold several, with commas between them."""
    return [word.strip() for value in values or [] for word in value.split(",") if word.strip()]
