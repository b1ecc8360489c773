"""Real ``inv`` processes in a folder, without the environment of the test run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import release_tasks

__all__ = ["run_inv", "start_inv", "write_project_files"]


def write_project_files(folder: Path, release: dict[str, Any]) -> None:
    """Write tasks.py with the suite, and invoke.yaml with its executor and this ``release`` section."""
    configuration = {"tasks": {"executor_class": "release_tasks.executor.StageExecutor"}, "release": release}
    (folder / "tasks.py").write_text("from release_tasks import ns\n")
    (folder / "invoke.yaml").write_text(json.dumps(configuration))


def start_inv(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start ``inv`` with these words in ``folder``; it imports the package that is under test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("INVOKE_", "PYTHON"))}
    package = str(Path(release_tasks.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_inv(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``inv`` to its end; fails after a minute, and when it prints a traceback."""
    process = start_inv(folder, *words)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert "Traceback" not in err + out, done
    return done
