"""SIGKILL at a seeded sample of the system calls of the real command, with its threads and its configuration."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.asset_kind import InstallKind
from tests.support.faults.marks import NEEDS_STRACE
from tests.support.faults.scenario import Scenario
from tests.support.faults.tracing import CHANGING, STRACE, Driver
from tests.support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    NEEDS_STRACE,
]

POINTS = 4
NAMES = ("write", "pwrite64", "rename", "renameat2", "unlink", "mkdir", "ftruncate", "chmod", "utimensat", "rmdir")


@pytest.mark.parametrize("has_plugin", [False, True])
def test_inv_rollback_killed_at_sampled_calls_is_finished_by_inv_recover(
    memory: Path,
    driver: Driver,
    report_points: Callable[[int], None],
    install_kind: InstallKind,
    monkeypatch: pytest.MonkeyPatch,
    has_plugin: bool,
) -> None:
    """``inv release.rollback`` is killed, and ``inv release.recover`` ends in all old or all new.

    With a plugin that captures a folder, the killed process may be the plugin's; the rollback goes on without it.
    """
    assert set(NAMES) <= CHANGING
    folder = memory / "project"
    folder.mkdir()
    (folder / "tasks.py").write_text("from release_tasks import ns\n")
    project = Project(folder, cache_settings=True)
    if has_plugin:
        install_kind("shutil.copytree(source, copy, symlinks=True)", form="directory")
        monkeypatch.setenv("PYTHONPATH", sys.path[0])
        project.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}
    (folder / "invoke.yaml").write_text(json.dumps({"release": project.raw}))
    scenario = Scenario(project, driver)
    command = [sys.executable, "-B", "-m", "invoke", "release.rollback"]

    scenario.reset()
    trace = memory / "trace"
    assert STRACE
    tracing = [STRACE, "-f", "-y", "-qq", "-e", f"trace={','.join(NAMES)}"]
    counting = [*tracing, "-s", "0", "-o", str(trace), *command]
    done = subprocess.run(counting, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls: Counter[tuple[str, str]] = Counter()
    points: set[tuple[str, int]] = set()
    for line in trace.read_text().splitlines():
        if (found := re.match(r"(\d+) +(\w+)\((.*)", line)) is not None:
            calls[found[1], found[2]] += 1  # strace counts the calls of each thread separately
            if str(folder) in found[3]:
                points.add((found[2], calls[found[1], found[2]]))

    chosen = random.Random(11).sample(sorted(points), min(POINTS, len(points)))
    killed = 0
    for name, number in chosen:
        scenario.reset()
        inject = ["-o", "/dev/null", "-e", f"inject={name}:signal=SIGKILL:when={number}"]
        killing = subprocess.run([*tracing, *inject, *command], cwd=folder, capture_output=True, check=False)
        killed += killing.returncode != 0
        recovering = [sys.executable, "-B", "-m", "invoke", "release.recover"]
        recovered = subprocess.run(recovering, cwd=folder, capture_output=True, text=True, check=False)
        assert recovered.returncode == 0, ((name, number), recovered.stderr)
        assert scenario.state() in ("old", "new"), ((name, number), scenario.state())
        scenario.check_rollback((name, number))
    report_points(len(chosen))
    # strace counts the calls of each thread: only the plugin's process may reach a high count.
    assert killed > (0.5 if has_plugin else 0.8) * len(chosen)
