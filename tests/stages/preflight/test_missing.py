"""Paths and programs that do not exist: found before the first gate, by preflight, prepare and diagnose."""

# ruff: noqa: E501  (the table is read line by line)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.events import Event
from release_tasks.core.records import Check
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.prepare import prepare_release
from release_tasks.tasks.project import load_settings

GATES: dict[str, Any] = {"build": {"command": "echo ran >> gates.log"}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with a file asset, a start script and a database with a usual name."""
    for name in ("state.txt", "start.sh", "todo.db"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / "start.sh").chmod(0o755)
    return tmp_path


def settings_of(project: Path, **release: Any) -> Any:
    raw = {"gates": GATES, "assets": {"state": {"file": "state.txt"}}, **release}
    return load_settings({"release": raw}, project)


def has_run(project: Path) -> bool:
    return (project / "gates.log").exists()


MISSING: list[tuple[dict[str, Any], str]] = [
    ({"assets": {"db": {"sqlite": "tood.db"}}}, "release.assets.db.sqlite: {project}/tood.db is required but does not exist (did you mean todo.db?)"),
    ({"assets": {"db": {"file": "elsewhere/x"}}}, "release.assets.db.file: {project}/elsewhere/x is required but does not exist"),
    ({"restart": {"command": "./strat.sh"}}, "release.restart.command: ./strat.sh does not exist (did you mean start.sh?)"),
    ({"restart": {"stop": "no-such-program stop"}}, "release.restart.stop: the program no-such-program is not in PATH"),
    ({"gates": {**GATES, "tests": {"command": "./strat.sh"}}}, "release.gates.tests.command: ./strat.sh does not exist (did you mean start.sh?)"),
    ({"gates": {**GATES, "tests": {"command": "true", "cwd": "no"}}}, "release.gates.tests.command: its folder {project}/no does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("release", "problem"), MISSING)
def test_what_is_missing_is_said_before_the_gates(project: Path, release: dict[str, Any], problem: str) -> None:
    """The check comes first, and no gate runs."""
    events: list[Event] = []
    run = run_preflight(settings_of(project, **release), emit=events.append)
    first, *gates = run.report.checks
    assert (first.id, first.status, first.detail) == ("configuration", "failed", problem.format(project=project))
    assert [gate.status for gate in gates] == ["skipped"] * len(gates)
    assert not run.report.passed and not has_run(project)
    assert run.report.failed_checks[0] == "configuration"
    assert getattr(events[0], "check", None) == first


@pytest.mark.parametrize(("release", "problem"), MISSING)
def test_diagnose_says_what_is_missing(project: Path, release: dict[str, Any], problem: str) -> None:
    """Also without any release."""
    _, diagnosis = diagnose_service(settings_of(project, **release))
    assert problem.format(project=project) in [found.detail for found in diagnosis.findings if found.key == "missing"]


def test_a_release_is_blocked_with_one_sentence(project: Path) -> None:
    """The missing asset is not reported twice."""
    manifest = prepare_release(settings_of(project, assets={"db": {"sqlite": "tood.db"}}))
    assert manifest.status == "blocked" and not has_run(project)
    assert len([line for line in manifest.diagnostics if "tood.db" in line]) == 1
    assert manifest.preflight.checks[0].id == "configuration"


@pytest.mark.parametrize(
    "release",
    [
        {"restart": {"command": "./start.sh"}},
        {"restart": {"command": "./strat.sh || ./start.sh"}},
        {"restart": {"command": "$START"}},
        {"assets": {"state": {"file": "state.txt"}, "other": {"file": "stat.txt", "required": False}}},
        {"gates": {**GATES, "tests": {"command": "./strat.sh", "advisory": True}}},
        {"notices": {"pager": {"command": "./no-such-program"}}},
        {"app": {"version": {"command": "no-such-program"}}},
    ],
)
def test_what_is_not_needed_does_not_block(project: Path, release: dict[str, Any]) -> None:
    """Optional assets, advisory gates, notifications, the version, and commands that only a shell can judge."""
    run = run_preflight(settings_of(project, **release))
    assert run.report.passed and [check.id for check in run.report.checks if check.id == "configuration"] == []


def test_a_program_that_a_gate_builds_is_looked_at_after_the_gates(project: Path) -> None:
    """A gate may build the program of the restart, or that of a gate that needs it."""
    build = {"command": "cp start.sh service"}
    gates = {"build": build, "tests": {"command": "./service", "needs": ["build"]}}
    settings = settings_of(project, gates=gates, restart={"command": "./service"})
    assert run_preflight(settings).report.passed
    settings = settings_of(project, gates=GATES, restart={"command": "./never-built"})
    report = run_preflight(settings).report
    assert has_run(project) and not report.passed
    assert [(check.id, check.status) for check in report.checks] == [("configuration", "failed"), ("build", "passed")]


def test_one_gate_alone_is_not_stopped(project: Path) -> None:
    """``gate.run`` and ``--only`` do not need the rest of the configuration."""
    settings = settings_of(project, assets={"db": {"sqlite": "tood.db"}})
    assert run_preflight(settings, only=["build"]).report.passed


def test_a_gate_may_be_called_configuration(project: Path) -> None:
    """The names in a report stay unique."""
    settings = settings_of(project, gates={"configuration": {"command": "true"}}, assets={"db": {"file": "x"}})
    checks: list[Check] = run_preflight(settings).report.checks
    assert [check.id for check in checks] == ["release-configuration", "configuration"]
