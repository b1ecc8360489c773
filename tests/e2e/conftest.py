"""Both supported versions of Invoke, and a clean environment to run them in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import release_tasks
from release_tasks.core.lock import FileLock

VERSIONS = {"2.2": "invoke>=2.2,<2.3", "3": "invoke>=3,<4"}


def installed(requirement: str, into: Path) -> Path:
    """The folder that holds this Invoke, installed once for all workers and sessions."""
    with FileLock(into.with_name(f"{into.name}.lock")).held(wait=600) as is_held:
        assert is_held
        if not into.exists():
            with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
                options = ["--disable-pip-version-check", "--target", f"{scratch}/invoke"]
                done = subprocess.run([*pip, *options, requirement], capture_output=True, text=True, timeout=300)
                if done.returncode:
                    pytest.fail(f"pip cannot install {requirement}: {done.stderr}", pytrace=False)
                Path(scratch, "invoke").rename(into)
    return into


# The oldest one costs as much time as the newest and differs less often, so it is for CI.
@pytest.fixture(scope="session", params=[pytest.param("2.2", marks=pytest.mark.slow), "3"])
def invoke_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put first on PYTHONPATH, for each version of Invoke."""
    cache = getattr(request.config, "cache", None)
    if cache is not None:
        parent = Path(cache.mkdir("invoke"))
    else:
        parent = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder below the session's
            parent = parent.parent
    # The interpreter is part of the name, for the script's first line points at it.
    python = re.sub(r"\W+", "_", sys.executable).strip("_")
    return installed(VERSIONS[request.param], parent / f"{python}-{request.param}")


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """Make an environment for a subprocess: ``environment(home, *folders)``.

    The folders and this package come first on its path, and no configuration from around it is seen.
    """

    def make(home: Path, *first: Path) -> dict[str, str]:
        package = Path(release_tasks.__file__).parent.parent
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON"))}
        search = os.pathsep.join(map(str, [*first, package]))
        return {**kept, "HOME": str(home), "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}

    return make


class Scratch:
    """A project folder of somebody else: their tasks.py, their invoke.yaml, real ``inv`` processes."""

    def __init__(self, root: Path, variables: dict[str, str], command: list[str]) -> None:
        self.root = root
        self.variables = variables
        self.command = command
        self.configuration: dict[str, Any] = {
            "tasks": {"executor_class": "release_tasks.executor.StageExecutor"},
            "release": {
                "root": "pipeline",
                "app": {"name": "theirs", "version": "2.1"},
                "health": {"timeout": "2s", "deadline": "3s", "interval": "50ms"},
                "gates": {"count": {"command": "echo gate >> gates.log; echo printed by the gate"}},
                "assets": {"state": {"file": "state.txt"}},
            },
        }
        (root / "tasks.py").write_text("from release_tasks import ns\n")
        (root / "state.txt").write_text("one")

    def write(self) -> None:
        """Write invoke.yaml as ``configuration`` stands; JSON is YAML too."""
        (self.root / "invoke.yaml").write_text(json.dumps(self.configuration))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command line and return at once."""
        self.write()
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.root,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def document(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a command line with ``--json`` and return its one document; the exit code must be ``code``."""
        done = self.run(*words, "--json")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def gate_runs(self) -> int:
        """How often the gate ``count`` ran."""
        log = self.root / "gates.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def tree(self) -> dict[str, Any]:
        """Every path below the project with mode and content."""
        found: dict[str, Any] = {}
        for path in sorted(self.root.rglob("*")):
            if "__pycache__" in path.parts or path.name == "invoke.yaml":
                continue
            info = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            found[str(path.relative_to(self.root))] = (info.st_mode, content)
        return found


@pytest.fixture
def scratch(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> Scratch:
    """Return a scratch project that runs ``inv`` as it is installed here."""
    root = tmp_path / "theirs"
    root.mkdir()
    return Scratch(root, environment(tmp_path), [sys.executable, "-m", "invoke"])


@pytest.fixture
def versioned(tmp_path: Path, invoke_folder: Path, environment: Callable[..., dict[str, str]]) -> Scratch:
    """Return the same under each supported version of Invoke."""
    root = tmp_path / "theirs"
    root.mkdir()
    return Scratch(root, environment(tmp_path, invoke_folder), [sys.executable, "-m", "invoke"])
