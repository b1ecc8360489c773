"""The parsers of flags, and how flags replace configured values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from release_tasks.core.errors import UsageError
from release_tasks.core.location import is_within

if TYPE_CHECKING:
    from release_tasks.config.schema import HealthConfig, ReliabilityConfig, Settings

T = TypeVar("T")

__all__ = [
    "duration_flag",
    "number_flag",
    "output_flag",
    "path_flag",
    "text_flag",
    "url_flag",
    "with_flags",
    "words_flag",
]


def with_flags(
    settings: Settings,
    *,
    health_url: str | None = None,
    strict: bool | None = None,
    reliability_url: str | None = None,
    restart_command: str | None = None,
    retention: int | None = None,
    lock_wait: float | None = None,
    length: float | None = None,
    interval: float | None = None,
    rollback: bool | None = None,
) -> Settings:
    """Return ``settings`` with the values of flags in place; None means that a flag was not given.

    Durations are in seconds. ``lock_wait`` is for the locks of databases. ``length`` and ``interval`` belong to the
    watch, and ``rollback`` allows it to roll back. ``strict`` makes the health gate fail for a degraded service. Raises
    UsageError, which names the flag.
    """
    from attrs import evolve

    for name, seconds in (("for", length), ("interval", interval)):
        if seconds is not None and seconds <= 0:
            raise UsageError(f"--{name}: expected a duration above 0.")
    if retention is not None and retention < 1:
        raise UsageError(f"--retention: expected a whole number, 1 or more, got {retention}.")
    changed: dict[str, Any]
    overrides: dict[str, dict[str, Any]] = {
        "health": {"url": url_flag("health-url", health_url), "strict": strict},
        "reliability": {"url": url_flag("reliability-url", reliability_url)},
        "restart": {"command": text_flag("restart-command", restart_command)},
        "watch": {"for_": length, "interval": interval, "rollback": rollback},
    }
    release = settings.release
    _require_same_origin("health", health_url, release.health)
    _require_same_origin("reliability", reliability_url, release.reliability, release.reliability.bearer_token_env)
    changed = {key: value for key, value in (("retention", retention), ("lock_wait", lock_wait)) if value is not None}
    for section, options in overrides.items():
        given = {key: value for key, value in options.items() if value is not None}
        changed[section] = evolve(getattr(release, section), **given)
    return evolve(settings, release=evolve(release, **changed))


def _require_same_origin(
    name: str, url: str | None, config: HealthConfig | ReliabilityConfig, *secrets: str | None
) -> None:
    """Raise UsageError for a typed URL of another server when the request carries secrets for the configured one."""
    from release_tasks.config.endpoint import variables_in
    from release_tasks.core.url import origin_of, shown_url

    if url is None or config.url is None or not any((*variables_in(config.headers), *secrets)):
        return
    if origin_of(url) != origin_of(config.url):
        raise UsageError(
            f"--{name}-url: the headers of release.{name} contain secrets, which are sent only to the server of "
            f"{shown_url(config.url)}. To send them to {shown_url(url)}, set INVOKE_RELEASE_{name.upper()}_URL to it."
        )


def duration_flag(name: str, value: str | None) -> float | None:
    """Return a duration in seconds, or None when the flag was not given; raises UsageError, which names the flag."""
    from release_tasks.core.units import parse_duration

    return None if value is None else _parsed(name, value, parse_duration)


def number_flag(name: str, value: str, least: int = 1) -> int:
    """Return a whole number of at least ``least``; raises UsageError, which names the flag."""
    from release_tasks.core.units import parse_integer

    return _parsed(name, value, lambda text: parse_integer(text, least))


def _parsed(name: str, value: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}.") from None


def text_flag(name: str, value: str | None) -> str | None:
    """Return a text, or None when the flag was not given; raises UsageError for an empty text."""
    if value is not None and not value.strip():
        raise UsageError(f"--{name}: expected a value, got nothing.")
    return value


def path_flag(name: str, value: str, what: str) -> Path:
    """Return an absolute path; raises UsageError, which names ``what`` it should be, for the ~ of an unknown user."""
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"--{name}: {value!r} is not a {what}: {error}") from None


def output_flag(settings: Settings, name: str, value: str) -> Path:
    """Return the absolute path of a file to write; raises UsageError for a path in the state or among the records.

    Raises ForeignFolder in a run as root for a folder that another user can change.
    """
    from release_tasks.core.owned import require_own_parent  # here, because `inv --list` needs no attrs

    path = path_flag(name, value, "file")
    reserved = {f"release.assets.{key}": asset.path for key, asset in settings.release.assets.items()}
    root = settings.release.root
    reserved |= {} if is_within(path, root / "reports") else {"release.root": root}
    for key, place in reserved.items():
        if is_within(path, place):
            raise UsageError(f"--{name}: {value!r} is inside {key} ({place}). Name a file elsewhere.")
    require_own_parent(path, f"--{name}")
    return path


def url_flag(name: str, value: str | None) -> str | None:
    """Return a URL, or None when the flag was not given; raises UsageError for any other text."""
    from release_tasks.core.url import check_url

    def checked(url: str) -> str:
        check_url(url)
        return url

    return None if value is None else _parsed(name, value, checked)


def words_flag(values: list[str] | None) -> list[str]:
    """Return the words of a flag that may be repeated and may contain several words separated by commas."""
    return [word.strip() for value in values or [] for word in value.split(",") if word.strip()]
