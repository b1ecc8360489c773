"""The application to release: its version, its commit, and a default release id."""

from __future__ import annotations

import time
from typing import Any

import pytest
from attrs import evolve

from release_tasks.core.errors import UsageError
from release_tasks.core.ids import is_valid_id
from release_tasks.core.process import command
from release_tasks.service.application import (
    default_release_id,
    describe_application,
    require_printable,
    require_showable_id,
)
from release_tasks.tasks.project import load_settings
from tests.support.processes import await_true, processes_with
from tests.support.project import Project

VERSIONS: list[Any] = [
    ("2.5", "2.5"),
    ({"command": "echo 3.1; echo more"}, "3.1"),
    ({"file": "package.json", "key": "meta.version"}, "4.0.0"),
    ({"distribution": "attrs"}, "any"),
    ({"command": "exit 3"}, None),
    ({"command": "true"}, None),
    ({"command": "printf '\\377'"}, None),
    ({"file": "gone.json", "key": "version"}, None),
    ({"file": "package.json", "key": "meta.nothing"}, None),
    ({"distribution": "no-such-distribution-here"}, None),
]


@pytest.mark.parametrize(("config", "expected"), VERSIONS)
def test_the_version_is_read_or_its_absence_explained(project: Project, config: Any, expected: str | None) -> None:
    """An unreadable version is not an error, and the diagnostics have the reason."""
    (project.folder / "package.json").write_text('{"meta": {"version": "4.0.0"}}')
    project.overrides["app.version"] = config
    application = describe_application(project.settings)
    assert (application.version is None) == (expected is None)
    if expected not in (None, "any"):
        assert application.version == expected
    assert (application.problem is None) == (expected is not None)


@pytest.mark.parametrize(
    "words", ["sleep 60.7654", "sleep 60.7654 | cat", "trap '' TERM; while :; do sleep 0.2; done # 60.7654"]
)
def test_a_version_command_has_a_limit(project: Project, words: str) -> None:
    """It is stopped with its processes, and the reason names the key that allows more time."""
    project.overrides["app.version"] = {"command": words}
    project.overrides["version_timeout"] = "300ms"
    application = describe_application(project.settings)
    assert application.version is None
    assert application.problem is not None
    assert application.problem.endswith(
        "had no result after 300ms and was stopped. To allow more time, raise release.version_timeout"
    )
    await_true(lambda: not processes_with("60.7654"))


def test_a_slow_version_command_has_the_time_that_is_configured(project: Project) -> None:
    """A background process of the command does not delay the answer."""
    project.overrides["app.version"] = {"command": "sleep 0.5; sleep 30 & echo 3.1"}
    project.overrides["version_timeout"] = "20s"
    started = time.monotonic()
    assert describe_application(project.settings).version == "3.1"
    assert time.monotonic() - started < 15


def test_a_git_that_hangs_leaves_a_reason(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is unknown, and the diagnostics say why."""
    tools = project.folder / "tools"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setattr(command, "search_path", lambda environment: f"{tools}:{environment['PATH']}")
    project.overrides["version_timeout"] = "300ms"
    application = describe_application(project.settings)
    assert (application.git_commit, application.git_dirty) == (None, None)
    assert application.problem is not None
    assert application.problem.startswith(
        "the git commit cannot be read: 'git rev-parse --show-prefix' had no result after 300ms"
    )


@pytest.mark.parametrize("version", ["1.2.3", "v 1/2", "../..", "\u00e4", "", "-x", "a" * 500])
def test_the_default_release_id_is_valid(project: Project, version: str) -> None:
    """This holds for any version text."""
    application = evolve(describe_application(project.settings), version=version)
    assert is_valid_id(default_release_id(application))
    assert len(default_release_id(application)) <= 96


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("app.name", "the-hunter2-shop", "release.app.name looks like a secret"),
        ("assets", {"extra": {"file": "a"}, f"ghp_{'a1B2' * 9}": {"file": "b"}}, "number 2 in release.assets looks"),
        ("gates", {f"ghp_{'a1B2' * 9}": {"command": "true"}}, "number 1 in release.gates looks"),
    ],
)
def test_a_name_that_no_message_could_show_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, path: str, value: Any, named: str
) -> None:
    """An asset may have the name of a weak password: it is exact in every record."""
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    project.overrides[path] = value
    with pytest.raises(UsageError, match=named):
        require_printable(project.settings)
    project.overrides.update({"app.name": "shop", "gates": {"a": {"command": "true"}}})
    project.overrides["assets"] = {"hunter2": {"file": "a"}}
    require_printable(load_settings({"release": project.raw}, project.folder))


def test_an_id_that_no_message_could_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typed id, and one that is generated from a name; the digits of its time are no secret."""
    require_showable_id("shop-20261130041727", is_typed=False)
    monkeypatch.setenv("DB_PASSWORD", "20261130")
    require_showable_id("shop-20261130041727", is_typed=False)
    token = "ghp_" + "a1B2" * 9
    for release_id, is_typed in (("shop-20261130", True), (f"{token}-20261130041727", False), (token, True)):
        with pytest.raises(UsageError, match=r"release\.prepare --release-id ID"):
            require_showable_id(release_id, is_typed=is_typed)
