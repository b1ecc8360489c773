"""Drills on a full disk: on real filesystems, as root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.core.events import Event, StepBegan
from release_tasks.stages.drill.engine import run_drill
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.project import MakeProject, Project

pytestmark = [pytest.mark.slow, *MOUNTS]


@pytest.fixture
def large(make_project: MakeProject) -> Project:
    """A project with a snapshot of 3 MiB that is restore-tested."""
    project = make_project("p")
    (project.identity / "large").write_bytes(os.urandom(3 << 20))
    project.capture()
    assert run_drill(project.settings).status == "passed"
    return project


def test_drill_on_a_small_disk_fails_before_it_copies(large: Project, mounts: Mounts, tmp_path: Path) -> None:
    """The message gives the size needed and the size free; the earlier restore test stays recorded."""
    small = tmp_path / "small"
    mounts.tmpfs(small, "20m")
    seen: list[Event] = []
    outcome = run_drill(large.settings, scratch=small, emit=seen.append)
    assert outcome.status == "failed"
    assert "it needs 23 MiB, and" in outcome.diagnostics[0]
    assert "has 20 MiB free" in outcome.diagnostics[0]
    assert [str(event) for event in seen if isinstance(event, StepBegan)] == ["verify v1_snapshot"]
    assert os.listdir(small) == []
    assert read_restore_tests(large.pipeline).by_snapshot["v1_snapshot"].status == "passed"


@pytest.mark.parametrize("size", ["1m", "4m", "5m", "6m"])
def test_drill_on_a_disk_that_fills_up_leaves_nothing(
    large: Project, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """The check of free space passed: the copy or the restore fails with a message, and the scratch copy is removed."""
    monkeypatch.setattr("release_tasks.stages.drill.engine.require_space", lambda *_: None)
    small = tmp_path / "small"
    mounts.tmpfs(small, size)
    outcome = run_drill(large.settings, scratch=small)
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0] or "full" in outcome.diagnostics[0]
    assert os.listdir(small) == []
    assert read_restore_tests(large.pipeline).by_snapshot["v1_snapshot"].status == "passed"
