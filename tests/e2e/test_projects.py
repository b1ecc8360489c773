"""The suite in other projects: as a plugin, as a binary, from a wheel, and in this repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject
from tests.support.processes import processes_with

REPOSITORY = Path(__file__).parents[2]

OWN_TASK = """
from invoke import task
from release_tasks import ns

@task(pre=[ns["release.prepare"]])
def deploy(ctx):
    \"\"\"Deploy what was prepared.\"\"\"
    ctx.run("echo deployed >> deployed.log")

ns.add_task(deploy)
"""


def was_deployed(scratch: InvokeProject) -> bool:
    return (scratch.root / "deployed.log").exists()


@pytest.mark.slow
def test_own_task_runs_after_a_ready_release_only(versioned: InvokeProject) -> None:
    """``pre=[release.prepare]`` in a project: the release comes first, and a blocked release blocks the task."""
    (versioned.root / "tasks.py").write_text(OWN_TASK)
    done = versioned.run("deploy")
    assert (done.returncode, was_deployed(versioned)) == (0, True), done
    (versioned.root / "deployed.log").unlink()
    versioned.configuration["release"]["gates"]["bad"] = {"command": "false"}
    assert versioned.run("deploy").returncode == 1
    assert not was_deployed(versioned)


@pytest.mark.slow
def test_a_chain_with_an_own_task_runs_the_gates_once(versioned: InvokeProject) -> None:
    """``inv release.preflight release.prepare deploy`` runs the gates once and makes one release."""
    (versioned.root / "tasks.py").write_text(OWN_TASK)
    done = versioned.run("release.preflight", "release.prepare", "--release-id", "v1", "deploy")
    assert (done.returncode, versioned.gate_runs(), was_deployed(versioned)) == (0, 1, True), done
    assert len(list((versioned.root / "pipeline" / "snapshots").iterdir())) == 1


@pytest.mark.slow
def test_tasks_work_from_a_folder_below_the_project(scratch: InvokeProject) -> None:
    """Relative paths start at the folder of tasks.py, wherever ``inv`` is typed."""
    below = scratch.root / "deep" / "down"
    below.mkdir(parents=True)
    scratch.write()
    done = subprocess.run(
        [*scratch.command, "release.prepare"], cwd=below, env=scratch.variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert (scratch.root / "pipeline" / "manifests" / "latest.json").exists()
    assert list(below.iterdir()) == []


@pytest.mark.slow
def test_the_binary_needs_no_tasks_file(scratch: InvokeProject) -> None:
    """``release-tasks`` reads invoke.yaml and offers the same tasks."""
    (scratch.root / "tasks.py").unlink()
    scratch.command = [sys.executable, "-m", "release_tasks.tasks.program"]
    assert scratch.document("release.prepare", "--release-id", "v1")["status"] == "ready"
    (scratch.root / "state.txt").write_text("two")
    assert scratch.document("release.rollback")["status"] == "restored"
    assert (scratch.root / "state.txt").read_text() == "one"
    unknown = scratch.run("release.nonesuch")
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (2, False)


@pytest.mark.slow
def test_the_wheel_is_complete(scratch: InvokeProject, tmp_path: Path, free_port: int) -> None:
    """From the built wheel, outside of the checkout: page and types are there, the gateway starts, a release works."""
    build = [sys.executable, "-m", "invoke", "dev.build", "--output", str(tmp_path / "wheel")]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("release_tasks-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    templates = (REPOSITORY / "release_tasks" / "report" / "html" / "templates").iterdir()
    assert {f"release_tasks/report/html/templates/{path.name}" for path in templates} <= names
    assert {"release_tasks/py.typed", "release_tasks/gateway/gui/index.html"} <= names
    assert not [name for name in names if name.startswith("tests")]
    scratch.variables["PYTHONPATH"] = str(tmp_path / "site")
    where = subprocess.run(
        [sys.executable, "-c", "import release_tasks; print(release_tasks.__file__)"],
        cwd=scratch.root,
        env=scratch.variables,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(str(tmp_path / "site"))
    scratch.configuration["gateway"] = {"port": free_port, "root": "home"}
    try:
        assert scratch.run("gateway.start").returncode == 0
        assert scratch.run("release.prepare").returncode == 0
        assert scratch.run("release.report").returncode == 0
    finally:
        assert scratch.run("gateway.stop").returncode == 0


@pytest.mark.slow
def test_the_demo_succeeds_and_leaves_nothing(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> None:
    """``inv demo`` ends with 0, and leaves no file in the checkout or in the temporary folder."""

    def listing() -> set[str]:
        ignored = {".git", ".pytest_cache", ".venv", ".hypothesis", ".mypy_cache", ".ruff_cache"}
        found = set()
        for folder, folders, files in os.walk(REPOSITORY):
            folders[:] = [name for name in folders if name not in ignored and name != "__pycache__"]
            found |= {os.path.join(folder, name) for name in files}
        return found

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = listing()
    variables = {**environment(tmp_path), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "demo"], cwd=REPOSITORY, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (
        "health reports degraded",
        "health reports ok",
        "reports restored",
        "reports noop",
        "byte for byte",
        "INTACT",
    ):
        assert shown in done.stdout
    assert listing() == before
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_terminal_that_closes_ends_the_demo(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> None:
    """SIGHUP: 129 and a sentence, and neither the gateway nor a file is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "invoke", "demo"],
        cwd=REPOSITORY,
        env={**environment(tmp_path), "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Started the gateway")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (129, "Interrupted by SIGHUP. The gateway is stopped.\n")
    assert list(temporary.iterdir()) == []
    assert processes_with(str(temporary)) == []
