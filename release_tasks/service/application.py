"""The released application: its version and its git commit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import Settings, VersionConfig
from release_tasks.core.canonical import read_document
from release_tasks.core.clock import compact
from release_tasks.core.interrupt import wait_for
from release_tasks.core.process.command import tool_environment
from release_tasks.core.units import show_duration

__all__ = ["Application", "default_release_id", "describe_application"]

_MAX_OUTPUT = 64 << 10  # bytes of a version or of git


@frozen(kw_only=True)
class Application:
    """The application in the project folder; ``problem`` is the reason why version or commit are unknown."""

    name: str
    version: str | None
    git_commit: str | None
    git_dirty: bool | None
    problem: str | None = None


def describe_application(settings: Settings) -> Application:
    """Read version and commit; a value is None if it cannot be read. Raises nothing."""
    config, timeout = settings.release.app, settings.release.version_timeout
    version, commit, dirty = None, None, None
    problems = []
    if config.version is not None:
        try:
            version = _read_version(config.version, settings.project, timeout)
        except (OSError, ImportError, LookupError, ValueError) as error:
            problems.append(f"the version of {config.name} cannot be read: {error}")
    try:
        commit = _git(settings.project, timeout, "rev-parse HEAD")
        status = _git(settings.project, timeout, "status --porcelain --untracked-files=no") if commit else None
        dirty = bool(status) if status is not None else None
    except _TimedOut as error:
        problems.append(f"the git commit cannot be read: {error}")
    problem = "; ".join(problems) or None
    return Application(name=config.name, version=version, git_commit=commit, git_dirty=dirty, problem=problem)


def default_release_id(application: Application) -> str:
    """Return the default release id: version (or name) and the time in UTC."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", application.version or application.name).strip("-._")[:64]
    return f"{stem or 'release'}-{compact()}"


class _TimedOut(ValueError):
    """A command had no result within ``release.version_timeout``."""

    def __init__(self, command: str, timeout: float) -> None:
        limit = show_duration(timeout)
        super().__init__(
            f"{command!r} had no result after {limit} and was stopped. To allow more time, raise "
            "release.version_timeout"
        )


def _read_version(config: VersionConfig, project: Path, timeout: float) -> str:
    if config.text is not None:
        return config.text
    if config.distribution is not None:
        return metadata.version(config.distribution)
    if config.command is not None:
        code, output = _run(config.command, project, timeout)
        lines = output.strip().splitlines()
        if code != 0 or not lines:
            raise ValueError(
                f"{config.command!r} exited with code {code} and printed {len(lines)} lines; expected "
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


def _git(project: Path, timeout: float, arguments: str) -> str | None:
    """Return the output of a git command, or None when it fails. Raises _TimedOut."""
    try:
        code, output = _run(f"git {arguments}", project, timeout)
    except (OSError, UnicodeDecodeError):
        return None
    return output.strip() if code == 0 else None


def _run(command: str, project: Path, timeout: float) -> tuple[int, str]:
    """Run a shell command and return its exit code and output. Raises OSError, UnicodeDecodeError, and _TimedOut.

    After ``timeout`` seconds its whole process group is killed.
    """
    # A file, because a process that the command leaves in the background keeps a pipe open.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=project,
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def has_ended(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.returncode is not None

        try:
            if not wait_for(has_ended, timeout):
                raise _TimedOut(command, timeout)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return process.returncode, output.read(_MAX_OUTPUT).decode()
