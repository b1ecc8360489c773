"""The released application: its version and its git commit."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import Settings, VersionConfig
from release_tasks.core.canonical import read_document
from release_tasks.core.clock import compact
from release_tasks.core.process.answer import ask
from release_tasks.service.git import checkout_of, git_environment

__all__ = ["Application", "default_release_id", "describe_application"]


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
    version, problems = None, []
    if config.version is not None:
        try:
            version = _read_version(config.version, settings.project, timeout)
        except (OSError, ImportError, LookupError, ValueError) as error:
            problems.append(f"the version of {config.name} cannot be read: {error}")
    checkout = checkout_of(settings.project, timeout)
    if checkout.problem is not None:
        problems.append(checkout.problem)
    return Application(
        name=config.name,
        version=version,
        git_commit=checkout.commit,
        git_dirty=checkout.is_dirty,
        problem="; ".join(problems) or None,
    )


def default_release_id(application: Application) -> str:
    """Return the default release id: version (or name) and the time in UTC."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", application.version or application.name).strip("-._")[:64]
    return f"{stem or 'release'}-{compact()}"


def _read_version(config: VersionConfig, project: Path, timeout: float) -> str:
    if config.text is not None:
        return config.text
    if config.distribution is not None:
        return metadata.version(config.distribution)
    if config.command is not None:
        # A shell command such as `git describe` must see the project's repository too.
        answer = ask(
            ["/bin/sh", "-c", config.command],
            shown=config.command,
            cwd=project,
            environment=git_environment(),
            timeout=timeout,
            key="release.version_timeout",
        )
        code, lines = answer.code, answer.output.decode().strip().splitlines()
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
