"""Disks that are too small for a snapshot are found before the first byte is copied: on real filesystems, as root."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.core.events import Event
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project

pytestmark = MOUNTS

FillDisk = Callable[[Project, Mounts], None]


def few_names(project: Project, mounts: Mounts) -> None:
    """Put the pipeline on a disk with space for the state and too few inodes for it."""
    for number in range(3000):
        (project.identity / f"{number}").touch()
    mounts.ext4(project.settings.release.root, 8 << 20)


def little_space(project: Project, mounts: Mounts) -> None:
    """Put the pipeline on a disk that is smaller than the state."""
    (project.identity / "large").write_bytes(os.urandom(6 << 20))
    mounts.ext4(project.settings.release.root, 5 << 20)


@pytest.mark.parametrize("disk", [few_names, little_space])
def test_prepare_is_blocked_before_it_copies(project: Project, mounts: Mounts, disk: FillDisk) -> None:
    """The manifest says which disk, what is needed and what is free; the disk was not filled meanwhile."""
    project.settings.release.root.mkdir()
    disk(project, mounts)
    seen: list[Event] = []
    manifest = prepare(project.settings, passed_preflight(), "v1", emit=seen.append)
    assert manifest.status == "blocked"
    assert str(project.settings.release.root) in manifest.diagnostics[0]
    assert "needed, " in manifest.diagnostics[0] and manifest.diagnostics[0].endswith("Nothing was copied.")
    assert not any("capture" in str(event) for event in seen)
    assert not project.pipeline.catalogue.store.folder.exists()


def test_plan_and_diagnose_foresee_a_safety_copy_without_space_of(project: Project, mounts: Mounts) -> None:
    """The bad release filled the state: both say so before the rollback is refused, and what to type."""
    project.settings.release.root.mkdir()
    mounts.ext4(project.settings.release.root, 8 << 20)
    assert prepare(project.settings, passed_preflight(), "v1").status == "ready"
    (project.identity / "large").write_bytes(os.urandom(9 << 20))
    found = " ".join(plan_rollback(project.settings).diagnostics)
    assert re.search(r"for the safety copy.*: .* needed, .* free.*--without-safety", found)
    assert project.pipeline.catalogue.store.leftovers() == []
    signals, diagnosis = diagnose_service(project.settings)
    assert signals.unread == []
    assert any("for the safety copy" in finding.detail for finding in diagnosis.findings if finding.key == "low-disk")


def test_plan_foresees_restored_state_without_space_of(project: Project, mounts: Mounts) -> None:
    """The bad release filled the disk of the state; the plan has the numbers of that disk."""
    (project.identity / "large").write_bytes(os.urandom(3 << 20))
    original = project.state.rename(project.folder / "original")
    mounts.ext4(project.state, 8 << 20)
    shutil.copytree(original, project.state, symlinks=True, dirs_exist_ok=True)
    project.capture()
    (project.identity / "large").unlink()
    info = os.statvfs(project.state)
    (project.state / "filler").write_bytes(bytes(info.f_bavail * info.f_frsize - (1 << 20)))
    found = [line for line in plan_rollback(project.settings).diagnostics if "needed" in line]
    assert len(found) == 1
    assert str(project.state) in found[0] and "for the restored state" in found[0]


@pytest.mark.slow
def test_drill_foresees_too_few_inodes(project: Project, mounts: Mounts, tmp_path: Path) -> None:
    """It fails before it copies, with the number of inodes, and names the flag for another disk."""
    for number in range(4100):
        (project.identity / f"{number}").touch()
    project.capture()
    small = tmp_path / "small"
    mounts.ext4(small, 32 << 20)
    outcome = run_drill(project.settings, scratch=small)
    assert outcome.status == "failed"
    assert "not enough inodes" in outcome.diagnostics[0] and "--scratch DIR" in outcome.diagnostics[0]
    assert set(os.listdir(small)) <= {"lost+found"}
