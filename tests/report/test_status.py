"""``release.status``: the current state, one line for each release, and the totals."""

from __future__ import annotations

import io
import re
import shutil

import pytest
from attrs import evolve

from release_tasks.archive.status import release_status
from release_tasks.core.records import Check, PreflightReport
from release_tasks.report.screen import Screen
from release_tasks.report.status import overview, show_overview
from release_tasks.stages.rollback.engine import roll_back
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project

TIME = r"\d{4}-\d\d-\d\dT[\d:.]+Z"


def shown(project: Project, limit: int = 10, width: int | None = None) -> list[str]:
    """The lines of the answer, on a terminal of this width or in a pipe."""
    out = io.StringIO()
    screen = Screen(out)
    screen.terminal = evolve(screen.terminal, width=width)
    found = release_status(project.settings)
    show_overview(screen, found, overview(project.settings, limit, found))
    return out.getvalue().splitlines()


@pytest.fixture
def releases(project: Project) -> Project:
    """A project with a blocked release after two ready ones."""
    failed = Check(id="build", subsystem="build", status="failed", detail="exit code 3")
    for name in ("v1", "v2"):
        prepare(project.settings, passed_preflight(), name)
    prepare(project.settings, PreflightReport(passed=False, checks=[failed], failed_checks=["build"]), "v3")
    return project


def test_a_release_is_one_line(releases: Project) -> None:
    """Three releases are eight lines: state, table, totals, and the next command."""
    lines = shown(releases)
    patterns = [
        rf"READY  v2 \(1\.0\), prepared {TIME}; gates: 1 passed",
        "",
        "RELEASE  TIME +VERDICT  SIZE +RESTORE-TESTED  SNAPSHOT",
        rf"v3 +{TIME}  blocked +none \(build: exit code 3\)",
        rf"v2 +{TIME}  ready +\d+\.\d KiB +never +v2_snapshot_\d+",
        rf"v1 +{TIME}  ready +\d+\.\d KiB +never +v1_snapshot_\d+",
        r"3 releases, 2 snapshots of \d+\.\d KiB, no rollback yet",
        r"Test the rollback to the current release: inv release\.drill --snapshot v2_snapshot_\d+",
    ]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_terminal_shows_ages(releases: Project) -> None:
    """An age leaves space for the id of the snapshot."""
    lines = shown(releases, width=100)
    assert re.fullmatch(r"READY  v2 \(1\.0\), prepared \d+ s ago; gates: 1 passed", lines[0])
    assert lines[2].split() == ["RELEASE", "AGE", "VERDICT", "SIZE", "RESTORE-TESTED", "SNAPSHOT"]
    assert re.match(r"v2 +\d+ s  ready +\d+\.\d KiB +never +v2_snapshot_\d+", lines[4])


def test_a_safety_snapshot_is_one_line(releases: Project) -> None:
    """It belongs to no release; the rollback that took it is part of the state above."""
    releases.overrides["health.url"] = None
    releases.damage()
    outcome = roll_back(releases.settings)
    lines = shown(releases)
    assert re.fullmatch(rf"SUCCESS  last rollback: to {outcome.snapshot_id}, {TIME}", lines[1]), lines
    rows = [line for line in lines if str(outcome.safety_snapshot_id) in line]
    assert len(rows) == 1 and " safety " in rows[0]
    assert any(re.fullmatch(r"3 releases, 3 snapshots of \d+\.\d KiB", line) for line in lines)


def test_a_limit_hides_releases_and_counts_them(releases: Project) -> None:
    """The snapshot of a release that is not shown is not shown without it."""
    lines = shown(releases, limit=1)
    assert [line.split()[0] for line in lines[3:]] == ["v3", "3", "Test"]
    assert lines[4].startswith("3 releases (1 shown), 2 snapshots of ")


def test_a_deleted_snapshot_is_reported(releases: Project) -> None:
    """Retention, or a person, removed it: there is nothing to go back to."""
    (oldest, *_) = releases.pipeline.catalogue.published()[0]
    shutil.rmtree(releases.pipeline.catalogue.path(oldest.snapshot_id))
    (row,) = (line for line in shown(releases) if line.startswith("v1 "))
    assert row.endswith(f"deleted ({oldest.snapshot_id})")


def test_an_empty_project_is_one_line(project: Project) -> None:
    """It names the command that makes the first release."""
    assert shown(project) == ["No release is ready. Prepare one: inv release.prepare"]
