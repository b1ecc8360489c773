"""A rollback that creates the folders above an asset, cut from power at each step of its swap."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import crash_after_journal_writes
from tests.support.faults.disks import Disk, why_not
from tests.support.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(why_not("ext4") is not None, reason=f"NOT TESTED: {why_not('ext4')}"),
]


def attributes(folder: Path) -> list[tuple[int, int, int]]:
    found = [os.lstat(path) for path in (folder, folder / "live")]
    return [(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) for info in found]


def test_created_parents_survive_a_power_cut(project: Project, report_points: Callable[[int], None]) -> None:
    """At each step of the swap: recovery finishes the rollback, and the folders have their modes and owners."""
    conf = project.state / "conf"
    (conf / "live").mkdir(parents=True)
    (conf / "live" / "app.json").write_text("{}")
    for folder, mode in ((conf, 0o2751), (conf / "live", 0o710)):
        os.chown(folder, 1000, 33)
        os.chmod(folder, mode)
    project.overrides["assets.app"] = {"file": "state/conf/live/app.json"}
    project.capture()
    content, before = project.content(), attributes(conf)
    disk = Disk.filled("ext4", project.folder.with_name("state.image"), project.state)
    steps = 6
    try:
        for writes in range(steps):
            disk.mount()
            for folder, mode in ((conf, 0o2751), (conf / "live", 0o710)):  # the copy to the disk has other owners
                folder.mkdir(exist_ok=True)
                os.chown(folder, 1000, 33)
                os.chmod(folder, mode)
            project.capture(f"r{writes}")
            shutil.rmtree(conf)
            project.damage()
            with crash_after_journal_writes(writes):
                project.roll_back()
            disk.cut()
            disk.unmount()
            disk.mount()
            assert recover(project.settings).status == "finished", writes
            assert (project.content(), attributes(conf)) == (content, before), writes
            assert (conf / "live" / "app.json").read_text() == "{}", writes
            disk.unmount()
    finally:
        disk.unmount()
    report_points(steps)
