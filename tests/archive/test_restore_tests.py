"""What drill-audit.log proves of the snapshots that are there, and when it proves nothing."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.report.status import overview
from release_tasks.stages.drill.engine import run_drill
from tests.support.project import Project


def prove(project: Project, snapshot_id: str) -> str:
    return run_drill(project.settings, snapshot_id=snapshot_id).status


@pytest.fixture
def proved(project: Project) -> Any:
    """A project with two snapshots, the first of them drilled."""
    project.capture("v1")
    assert prove(project, "v1_snapshot") == "passed"
    project.damage()
    project.mcp.write_text("{}")
    project.capture("v2")
    return project


def test_the_newest_drill_of_each_snapshot_counts(proved: Any) -> None:
    """A failed one after a passed one takes the proof away; no drill, no proof."""
    proof = read_restore_tests(proved.pipeline).by_snapshot["v1_snapshot"]
    assert (proof.status, proof.booted) == ("passed", False)
    assert proof.at == proved.pipeline.drill_audit.verify().events[0]["time"]
    assert list(read_restore_tests(proved.pipeline).by_snapshot) == ["v1_snapshot"]
    stored = proved.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    good = stored.read_bytes()
    stored.write_bytes(b"[]")
    assert prove(proved, "v1_snapshot") == "failed"
    assert read_restore_tests(proved.pipeline).by_snapshot["v1_snapshot"].status == "failed"
    stored.write_bytes(good)
    assert prove(proved, "v1_snapshot") == "passed"
    assert read_restore_tests(proved.pipeline).by_snapshot["v1_snapshot"].status == "passed"


def test_another_snapshot_under_the_same_name_is_not_proved(proved: Any) -> None:
    """The digest is what was proved, not the name."""
    shutil.rmtree(proved.pipeline.catalogue.path("v1_snapshot"))
    proved.capture("v1")
    assert read_restore_tests(proved.pipeline).by_snapshot == {}


def test_of_an_altered_log_nothing_counts(proved: Any) -> None:
    """A failed drill that somebody turned into a passed one, or any other change: no proofs, and why."""
    assert prove(proved, "v2_snapshot") == "passed"
    path = proved.pipeline.drill_audit.path
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "booted": True}, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    found = read_restore_tests(proved.pipeline)
    assert found.by_snapshot == {}
    assert found.problem is not None and "drill-audit.log is broken (line 1" in found.problem
    shown = overview(proved.settings, 10)
    assert shown["proofProblem"] == found.problem
    assert [snapshot["proof"] for snapshot in shown["snapshots"]] == [None, None]


def test_the_overview_shows_what_is_proved(proved: Any) -> None:
    """Newest first: v2 never, v1 at its time."""
    newest, oldest = overview(proved.settings, 10)["snapshots"]
    assert (newest["snapshotId"], newest["proof"], newest["provedAt"]) == ("v2_snapshot", None, None)
    assert (oldest["proof"]["status"], oldest["provedAt"]) == ("passed", oldest["proof"]["at"])
