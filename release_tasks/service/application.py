"""The released application: its version and its git commit."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.config.schema import Settings, VersionConfig
from release_tasks.core.canonical import read_document
from release_tasks.core.clock import compact
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.printable import one_line
from release_tasks.core.process.answer import ask
from release_tasks.core.redact import Redactor
from release_tasks.core.typed import typed
from release_tasks.service.git import checkout_of, git_environment

__all__ = ["Application", "default_release_id", "describe_application", "require_printable", "require_showable_id"]

_LIKE_SECRET = "looks like a secret or contains the value of a secret variable, so every message would hide it"
_LONGEST = 200  # characters of a name or a version


@frozen(kw_only=True)
class Application:
    """The application in the project folder; ``problem`` is the reason why version or commit are unknown.

    Name and version are one printable line. ``refusal`` is the reason why a release cannot have the configured ones.
    """

    name: str
    version: str | None
    git_commit: str | None = None
    git_dirty: bool | None = None
    problem: str | None = None
    refusal: str | None = None


def describe_application(settings: Settings) -> Application:
    """Read version and commit; a value is None if it cannot be read. Raises nothing."""
    application = _named(settings)
    checkout = checkout_of(settings.project, settings.release.version_timeout)
    return evolve(
        application,
        git_commit=checkout.commit,
        git_dirty=checkout.is_dirty,
        problem="; ".join(filter(None, (application.problem, checkout.problem))) or None,
    )


def require_printable(settings: Settings) -> None:
    """Raise StageFailed when name or version of the application is not one printable line.

    Raises UsageError when a message could not show the name of the application, of an asset or of a gate: it looks like
    a secret.
    """
    release, found = settings.release, []
    if Redactor.of_process().redact_text(release.app.name) != release.app.name:
        found.append("release.app.name")
    for section, names in (("assets", release.assets), ("gates", release.gates)):
        found += [
            f"the name of number {number} in release.{section}"
            for number, name in enumerate(names, 1)
            if Redactor().redact_text(name) != name
        ]
    if found:
        raise UsageError(f"{found[0]} {_LIKE_SECRET}. Change it, and retry.")
    if (refusal := _named(settings).refusal) is not None:
        raise StageFailed(refusal)


def require_showable_id(release_id: str, is_typed: bool) -> None:
    """Raise UsageError when a message could not show a release id, or the id of its snapshot: it looks like a secret.

    The time in an id that is not typed is never the value of a secret.
    """
    snapshot_id = f"{release_id}_snapshot_{compact()}"
    known = Redactor.of_process().redact_text(release_id) if is_typed else release_id
    if known != release_id or Redactor().redact_text(snapshot_id) != snapshot_id:
        change = "Type another one" if is_typed else "Change release.app.name, or type an id"
        raise UsageError(f"The release id {_LIKE_SECRET}. {change}: {typed('release.prepare', '--release-id', 'ID')}")


def default_release_id(application: Application) -> str:
    """Return the default release id: version (or name) and the time in UTC."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", application.version or application.name).strip("-._")[:64]
    return f"{stem or 'release'}-{compact()}"


def _named(settings: Settings) -> Application:
    """Return the application with its name and version only."""
    config = settings.release.app
    redact = Redactor.of_process().redact_text
    given = redact(config.name)
    name, version, problem = one_line(given, _LONGEST), None, None
    if config.version is not None:
        try:
            version = redact(_read_version(config.version, settings.project, settings.release.version_timeout))
        except (OSError, ImportError, LookupError, ValueError) as error:
            problem = one_line(f"the version of {name} cannot be read: {error}")
    shown = one_line(version or "", _LONGEST)
    wrong = "name" if name != given else "version" if shown != (version or "") else None
    refusal = (
        f"release.app.{wrong} is not one printable line of at most {_LONGEST} characters: "
        f"{name if wrong == 'name' else shown}. Correct it, and retry."
        if wrong is not None
        else None
    )
    # A version with a line end could forge the line of a verdict in every message that names it.
    is_usable = version is not None and shown == version
    return Application(name=name, version=version if is_usable else None, problem=problem, refusal=refusal)


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
