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
from typing import Any

import pytest

from tests.support.faults.scene import Scene
from tests.support.faults.tracing import CHANGING, STRACE, Driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)"),
]

POINTS = 4
NAMES = ("write", "pwrite64", "rename", "renameat2", "unlink", "mkdir", "ftruncate", "chmod", "utimensat", "rmdir")


@pytest.mark.parametrize("has_plugin", [False, True])
def test_the_real_rollback_killed_at_sampled_calls_is_finished_by_the_real_recover(
    memory: Path,
    driver: Driver,
    project_at: Callable[..., Any],
    steady: Callable[[Any], Any],
    tried: Callable[[int], None],
    install_kind: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    has_plugin: bool,
) -> None:
    """``inv release.rollback`` is killed, and ``inv release.recover`` ends in all old or all new.

    With a plugin that captures a folder, its process may be the one that is killed: the rollback does without it.
    """
    assert set(NAMES) <= CHANGING
    folder = memory / "project"
    folder.mkdir()
    (folder / "tasks.py").write_text("from release_tasks import ns\n")
    project = project_at(folder)
    if has_plugin:
        install_kind("shutil.copytree(source, copy, symlinks=True)", form="directory")
        monkeypatch.setenv("PYTHONPATH", sys.path[0])
        project.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}
    project = steady(project)
    (folder / "invoke.yaml").write_text(json.dumps({"release": project.raw}))
    scene = Scene(project, driver)
    command = [sys.executable, "-B", "-m", "invoke", "release.rollback"]

    scene.fresh()
    trace = memory / "trace"
    assert STRACE
    tracing = [STRACE, "-f", "-y", "-qq", "-e", f"trace={','.join(NAMES)}"]
    counting = [*tracing, "-s", "0", "-o", str(trace), *command]
    done = subprocess.run(counting, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made: Counter[tuple[str, str]] = Counter()
    points: set[tuple[str, int]] = set()
    for line in trace.read_text().splitlines():
        if (found := re.match(r"(\d+) +(\w+)\((.*)", line)) is not None:
            made[found[1], found[2]] += 1  # strace counts for each thread by itself
            if str(folder) in found[3]:
                points.add((found[2], made[found[1], found[2]]))

    chosen = random.Random(11).sample(sorted(points), min(POINTS, len(points)))
    killed = 0
    for name, number in chosen:
        scene.fresh()
        inject = ["-o", "/dev/null", "-e", f"inject={name}:signal=SIGKILL:when={number}"]
        done = subprocess.run([*tracing, *inject, *command], cwd=folder, capture_output=True, check=False)
        killed += done.returncode != 0
        recovering = [sys.executable, "-B", "-m", "invoke", "release.recover"]
        recovered = subprocess.run(recovering, cwd=folder, capture_output=True, text=True, check=False)
        assert recovered.returncode == 0, ((name, number), recovered.stderr)
        assert scene.state() in ("old", "new"), ((name, number), scene.state())
        scene.check_rollback((name, number))
    tried(len(chosen))
    # strace counts for each thread: in the plugin's process a count may be reached that no other thread reaches.
    assert killed > (0.5 if has_plugin else 0.8) * len(chosen)
