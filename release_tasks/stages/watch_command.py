"""The command that starts a watch, as it works with the configuration of the project."""

from __future__ import annotations

from release_tasks.config.schema import Settings
from release_tasks.core.typed import typed

__all__ = ["watch_command"]


def watch_command(settings: Settings) -> str:
    """Return the command to watch a release; it names the flag for the URL where the configuration has none."""
    missing = () if settings.release.is_watchable else ("--health-url", "URL")
    return typed("release.watch", *missing)
