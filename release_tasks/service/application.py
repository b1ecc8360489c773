"""The released application: its version and its git commit."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import Settings, VersionConfig
from release_tasks.core.canonical import read_document
from release_tasks.core.clock import compact
from release_tasks.core.process.command import tool_environment

__all__ = ["Application", "default_release_id", "describe_application"]

_TIMEOUT_SECONDS = 10.0


@frozen(kw_only=True)
class Application:
    """The application in the project folder; ``problem`` is the reason if the version is unknown."""

    name: str
    version: str | None
    git_commit: str | None
    git_dirty: bool | None
    problem: str | None = None


def describe_application(settings: Settings) -> Application:
    """Read version and commit; a value is None if it cannot be read. Raises nothing."""
    config = settings.release.app
    version, problem = None, None
    if config.version is not None:
        try:
            version = _read_version(config.version, settings.project)
        except (OSError, ImportError, LookupError, ValueError, subprocess.SubprocessError) as error:
            problem = f"the version of {config.name} cannot be read: {error}"
    commit = _git(settings.project, "rev-parse", "HEAD")
    status = _git(settings.project, "status", "--porcelain", "--untracked-files=no") if commit else None
    dirty = bool(status) if status is not None else None
    return Application(name=config.name, version=version, git_commit=commit, git_dirty=dirty, problem=problem)


def default_release_id(application: Application) -> str:
    """Return the default release id: version (or name) and the time in UTC."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", application.version or application.name).strip("-._")[:64]
    return f"{stem or 'release'}-{compact()}"


def _read_version(config: VersionConfig, project: Path) -> str:
    if config.text is not None:
        return config.text
    if config.distribution is not None:
        return metadata.version(config.distribution)
    if config.command is not None:
        completed = subprocess.run(
            config.command,
            shell=True,
            cwd=project,
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        lines = completed.stdout.strip().splitlines()
        if completed.returncode != 0 or not lines:
            raise ValueError(
                f"{config.command!r} exited with code {completed.returncode} and printed {len(lines)} lines; expected "
                "exit code 0 and the version on the first line"
            )
        return lines[0].strip()
    assert config.file is not None and config.key is not None
    value: object = read_document(config.file)
    for part in config.key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise LookupError(f"{config.file} does not contain the key {config.key!r}")
        value = value[part]
    return str(value)


def _git(project: Path, *arguments: str) -> str | None:
    try:
        completed = subprocess.run(
            ["git", *arguments],
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
