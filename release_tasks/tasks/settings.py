"""The configuration of this command line: Invoke's merged sources, checked, each mistake with its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings

__all__ = ["is_dry", "project_folder", "runtime_file", "settings_of"]


def settings_of(ctx: Context) -> Settings:
    """Read and check the configuration; raises ConfigError with every mistake, UsageError inside a drill."""
    from release_tasks.tasks.project import settings_from

    return settings_from(ctx.config, project_folder(ctx))


def project_folder(ctx: Context) -> Path:
    """Return the folder that holds tasks.py, or the working folder when there is none."""
    # Invoke keeps it here, under 2.2 and 3.0 alike, and offers no public name for it.
    prefix = getattr(ctx.config, "_project_prefix", None)
    return Path(os.path.abspath(prefix or "."))


def runtime_file(ctx: Context) -> Path | None:
    """Return the file that ``inv -f`` or INVOKE_RUNTIME_CONFIG named, absolute, or None."""
    path = getattr(ctx.config, "_runtime_path", None)
    return Path(path).absolute() if path else None


def is_dry(ctx: Context) -> bool:
    """Say whether ``--dry`` was typed: Invoke itself only silences ``ctx.run``."""
    return bool(ctx.config.run.dry)
