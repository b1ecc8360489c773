"""Drills where there is no room: on real filesystems, as root."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.core.events import StepBegan
from release_tasks.stages.drill.engine import run_drill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]


@pytest.fixture
def large(make_project: Callable[..., Any]) -> Any:
    """A project whose snapshot takes 3 MiB, proved once."""
    project = make_project("p")
    (project.identity / "large").write_bytes(os.urandom(3 << 20))
    project.capture()
    assert run_drill(project.settings).status == "passed"
    return project


def test_no_room_is_said_before_anything_is_copied(large: Any, mounts: Any, tmp_path: Path) -> None:
    """The sentence has both numbers; what was proved before stays proved."""
    small = tmp_path / "small"
    mounts.tmpfs(small, "20m")
    seen: list[Any] = []
    outcome = run_drill(large.settings, scratch=small, emit=seen.append)
    assert outcome.status == "failed"
    assert "it needs 23 MiB, and" in outcome.diagnostics[0]
    assert "has 20 MiB free" in outcome.diagnostics[0]
    assert [str(event) for event in seen if isinstance(event, StepBegan)] == ["verify v1_snapshot"]
    assert os.listdir(small) == []
    assert read_restore_tests(large.pipeline).by_snapshot["v1_snapshot"].status == "passed"


@pytest.mark.parametrize("size", ["1m", "4m", "5m", "6m"])
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    large: Any, mounts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """There was room when it was looked at: the copy or the restore fails, in a sentence, and all of it is removed."""
    monkeypatch.setattr("release_tasks.stages.drill.engine.require_space", lambda *_: None)
    small = tmp_path / "small"
    mounts.tmpfs(small, size)
    outcome = run_drill(large.settings, scratch=small)
    assert outcome.status == "failed"
    assert "space" in outcome.diagnostics[0] or "full" in outcome.diagnostics[0]
    assert os.listdir(small) == []
    assert read_restore_tests(large.pipeline).by_snapshot["v1_snapshot"].status == "passed"
