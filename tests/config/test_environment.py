"""Environment variables: each sets exactly one key, or is a mistake."""

# ruff: noqa: E501  (the tables are read line by line)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.environment import Overrides
from release_tasks.core.errors import ConfigError
from release_tasks.tasks.project import KINDS, load_project

GATES = (
    'release:\n  gates:\n    build: {command: make, timeout: 5}\n    api-health: {command: make, env: {Mode: "1"}}\n'
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with two gates and an asset."""
    (tmp_path / "invoke.yaml").write_text(GATES + "  assets:\n    db: {sqlite: a.db}\n")
    return tmp_path


def problems_of(project: Path) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_project(project)
    return error.value.problems


@pytest.mark.parametrize(
    ("name", "value", "place", "expected"),
    [
        ("GATES_BUILD_TIMEOUT", "1s", "gates.build.timeout", 1.0),  # a number in the file
        ("GATES_API_HEALTH_TIMEOUT", "1m", "gates.api-health.timeout", 60.0),  # a key that the file does not have
        ("GATES_API_HEALTH_ENV_MODE", "2", "gates.api-health.env.Mode", "2"),
        ("GATES_BUILD_ADVISORY", "false", "gates.build.advisory", False),
        ("ASSETS_DB_REQUIRED", "no", "assets.db.required", False),
        ("RETENTION", "7", "retention", 7),
        ("STORAGE_DELTAS", "off", "storage.deltas", "off"),
        ("STORAGE_DELTAS_ABOVE", "1GiB", "storage.deltas_above", 1 << 30),
        ("APP_VERSION", "1.10", "app.version.text", "1.10"),
        ("WATCH_FOR", "1:30", "watch.for_", None),
    ],
)
def test_a_variable_sets_a_key(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str, expected: Any
) -> None:
    """Also a key that no file has; a wrong value names the variable."""
    monkeypatch.setenv(f"INVOKE_RELEASE_{name}", value)
    if expected is None:
        (problem,) = problems_of(project)
        assert problem.startswith(f"environment variable INVOKE_RELEASE_{name}: release.watch.for: expected a duration")
        return
    found: Any = load_project(project).release
    for part in place.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("INVOKE_RELEASE_GATES_BIULD_TIMEOUT", "there is no such key in the configuration (did you mean 'INVOKE_RELEASE_GATES_BUILD_TIMEOUT'?)"),
        ("INVOKE_RELEASE_RETENTIONS", "there is no such key in the configuration (did you mean 'INVOKE_RELEASE_RETENTION'?)"),
        ("INVOKE_PAIRING_TLL", "there is no such key in the configuration (did you mean 'INVOKE_PAIRING_TTL'?)"),
        ("INVOKE_GATEWAY_ADDRESS_OF_THE_OFFICE", "there is no such key in the configuration"),
        ("INVOKE_RELEASE_GATES_BUILD_ENV_NEW", "there is no such key in the configuration"),
        ("INVOKE_RELEASE_GATES_BUILD_NEEDS", "release.gates.build.needs is a list: write it in invoke.yaml, or in a file for inv -f"),
    ],
)  # fmt: skip
def test_a_variable_without_a_key_is_a_mistake(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    """The message has the variable that was probably meant."""
    monkeypatch.setenv(name, "1s")
    (found,) = problems_of(project)
    assert found.startswith(f"environment variable {name}: {problem}")


def test_two_gates_with_one_variable_are_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both keys are named; without the variable, both gates are accepted."""
    (tmp_path / "invoke.yaml").write_text("release:\n  gates:\n    a-b: {command: x}\n    a_b: {command: x}\n")
    load_project(tmp_path)
    monkeypatch.setenv("INVOKE_RELEASE_GATES_A_B_TIMEOUT", "1s")
    (problem,) = problems_of(tmp_path)
    assert problem.endswith(": it may mean release.gates.a-b.timeout or release.gates.a_b.timeout")


def test_two_variables_for_one_key_are_a_mistake(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable may contain the dash of a gate's name, where a shell did not set it."""
    monkeypatch.setenv("INVOKE_RELEASE_GATES_API-HEALTH_TIMEOUT", "1s")
    assert load_project(project).release.gates["api-health"].timeout == pytest.approx(1)
    monkeypatch.setenv("INVOKE_RELEASE_GATES_API_HEALTH_TIMEOUT", "2s")
    (problem,) = problems_of(project)
    assert "is also set by INVOKE_RELEASE_GATES_API" in problem


def test_variables_of_other_sections_are_ignored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another section may begin with the same word."""
    with (project / "invoke.yaml").open("a") as file:
        file.write("release_notes: {title: x}\n")
    monkeypatch.setenv("INVOKE_RELEASE_NOTES_TITLE", "y")
    monkeypatch.setenv("INVOKE_RUN_ECHO", "1")
    before = load_project(project)
    monkeypatch.delenv("INVOKE_RELEASE_NOTES_TITLE")
    assert load_project(project) == before


def test_a_variable_is_written_into_a_section_of_any_form() -> None:
    """The other mistakes of the section are reported by the loader."""
    raw: dict[str, Any] = {"release": {"health": None, "app": {"version": "1"}}}
    overrides = Overrides({"INVOKE_RELEASE_HEALTH_URL": "x", "INVOKE_RELEASE_APP_VERSION_COMMAND": "v"}, KINDS)
    overrides.apply(raw)
    assert raw == {"release": {"health": {"url": "x"}, "app": {"version": {"command": "v"}}}}
    assert overrides.name_of("release.health.url") == "environment variable INVOKE_RELEASE_HEALTH_URL"
