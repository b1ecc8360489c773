"""Which snapshots drill-audit.log proves to be restore-tested, and when it proves nothing."""

from __future__ import annotations

import json
import shutil

import pytest

from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.report.status import overview
from release_tasks.stages.drill.engine import run_drill
from tests.support.project import Project


def drill(project: Project, snapshot_id: str) -> str:
    """Drill a snapshot and return the status."""
    return run_drill(project.settings, snapshot_id=snapshot_id).status


@pytest.fixture
def drilled_project(project: Project) -> Project:
    """Return a project with two snapshots; the first one has passed a drill."""
    project.capture("v1")
    assert drill(project, "v1_snapshot") == "passed"
    project.damage()
    project.mcp.write_text("{}")
    project.capture("v2")
    return project


def test_latest_drill_of_each_snapshot_counts(drilled_project: Project) -> None:
    """A failed drill after a passed one counts as failed; a snapshot without a drill has no result."""
    proof = read_restore_tests(drilled_project.pipeline).by_snapshot["v1_snapshot"]
    assert (proof.status, proof.booted) == ("passed", False)
    assert proof.at == drilled_project.pipeline.drill_audit.verify().events[0]["time"]
    assert list(read_restore_tests(drilled_project.pipeline).by_snapshot) == ["v1_snapshot"]
    stored = drilled_project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    good = stored.read_bytes()
    stored.write_bytes(b"[]")
    assert drill(drilled_project, "v1_snapshot") == "failed"
    assert read_restore_tests(drilled_project.pipeline).by_snapshot["v1_snapshot"].status == "failed"
    stored.write_bytes(good)
    assert drill(drilled_project, "v1_snapshot") == "passed"
    assert read_restore_tests(drilled_project.pipeline).by_snapshot["v1_snapshot"].status == "passed"


def test_other_snapshot_under_the_same_id_is_not_restore_tested(drilled_project: Project) -> None:
    """The drill tested the digest, not the id."""
    shutil.rmtree(drilled_project.pipeline.catalogue.path("v1_snapshot"))
    drilled_project.capture("v1")
    assert read_restore_tests(drilled_project.pipeline).by_snapshot == {}


def test_altered_log_proves_nothing(drilled_project: Project) -> None:
    """After any change to the log no snapshot counts as restore-tested, and the reason is reported."""
    assert drill(drilled_project, "v2_snapshot") == "passed"
    path = drilled_project.pipeline.drill_audit.path
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "booted": True}, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    found = read_restore_tests(drilled_project.pipeline)
    assert found.by_snapshot == {}
    assert found.problem is not None and "drill-audit.log is broken (line 1" in found.problem
    shown = overview(drilled_project.settings, 10)
    assert shown["proofProblem"] == found.problem
    assert [snapshot["proof"] for snapshot in shown["snapshots"]] == [None, None]


def test_overview_shows_restore_tested_snapshots(drilled_project: Project) -> None:
    """Newest first: v2 was never drilled, v1 shows the time of its drill."""
    newest, oldest = overview(drilled_project.settings, 10)["snapshots"]
    assert (newest["snapshotId"], newest["proof"], newest["provedAt"]) == ("v2_snapshot", None, None)
    assert (oldest["proof"]["status"], oldest["provedAt"]) == ("passed", oldest["proof"]["at"])
