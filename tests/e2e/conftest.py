"""Both supported versions of Invoke, and an environment without the developer's settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import release_tasks
from release_tasks.core.lock import FileLock
from tests.support.invoke_project import InvokeProject
from tests.support.terminal import Shown, start_on_terminal

VERSIONS = {"2.2": "invoke>=2.2,<2.3", "3": "invoke>=3,<4"}


def installed(requirement: str, into: Path) -> Path:
    """Return the folder with this version of Invoke, installed once for all workers and sessions."""
    with FileLock(into.with_name(f"{into.name}.lock")).held(wait=600) as is_held:
        assert is_held
        if not into.exists():
            with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
                options = ["--disable-pip-version-check", "--target", f"{scratch}/invoke"]
                # CI constrains the Invoke of its environment to one version; here another one is needed.
                variables = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
                command = [*pip, *options, requirement]
                done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
                if done.returncode:
                    pytest.fail(f"pip cannot install {requirement}: {done.stderr}", pytrace=False)
                Path(scratch, "invoke").rename(into)
    return into


# The oldest version costs as much time as the latest and differs less often, so only CI runs it.
@pytest.fixture(scope="session", params=[pytest.param("2.2", marks=pytest.mark.slow), "3"])
def invoke_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to put first on PYTHONPATH, for each version of Invoke."""
    cache = getattr(request.config, "cache", None)
    if cache is not None:
        parent = Path(cache.mkdir("invoke"))
    else:
        parent = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder below the session's
            parent = parent.parent
    # The interpreter is part of the name, because the first line of the script names it.
    python = re.sub(r"\W+", "_", sys.executable).strip("_")
    return installed(VERSIONS[request.param], parent / f"{python}-{request.param}")


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """Return a maker of environments for a subprocess: ``environment(home, *folders)``.

    The folders and this package come first on its path, and the developer's configuration is hidden.
    """

    def make(home: Path, *first: Path) -> dict[str, str]:
        package = Path(release_tasks.__file__).parent.parent
        stored = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON"))}
        search = os.pathsep.join(map(str, [*first, package]))
        return {**stored, "HOME": str(home), "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}

    return make


@pytest.fixture
def scratch(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> InvokeProject:
    """Return a scratch project that runs the installed ``inv``."""
    root = tmp_path / "theirs"
    root.mkdir()
    return InvokeProject(root, environment(tmp_path), [sys.executable, "-m", "invoke"])


@pytest.fixture
def versioned(tmp_path: Path, invoke_folder: Path, environment: Callable[..., dict[str, str]]) -> InvokeProject:
    """Return a scratch project for each supported version of Invoke."""
    root = tmp_path / "theirs"
    root.mkdir()
    return InvokeProject(root, environment(tmp_path, invoke_folder), [sys.executable, "-m", "invoke"])


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Shown]]:
    """Return a function that starts command lines on a terminal; the fixture ends each."""
    started: list[Shown] = []

    def start(scratch: InvokeProject, words: str, columns: int = 80, **variables: str) -> Shown:
        started.append(start_on_terminal(scratch, words, columns, **variables))
        return started[-1]

    yield start
    for shown in started:
        if shown.process.poll() is None:
            shown.process.kill()
        shown.end()
