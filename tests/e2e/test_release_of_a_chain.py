"""Stages of one command line are about the release that it prepared, whatever another one prepares meanwhile."""

from __future__ import annotations

import json

import pytest

from tests.support.health import Health
from tests.support.invoke_project import InvokeProject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TASKS = """
import subprocess
import sys
from pathlib import Path
from invoke import Collection, task
from release_tasks import ns

@task
def deploy(ctx):
    Path("state.txt").write_text("deployed")
    if Path("meanwhile").exists():
        Path("meanwhile").unlink()
        command = [sys.executable, "-m", "invoke", "release.prepare", "--release-id", "B"]
        subprocess.run(command, check=True, stdout=sys.stderr)

ns.add_task(deploy)
"""
WATCH = ("release.watch", "--rollback", "--for", "2s", "--interval", "100ms")


@pytest.fixture
def chain(scratch: InvokeProject, health: Health) -> InvokeProject:
    """Return a project whose ``deploy`` changes the state, and prepares B if the file ``meanwhile`` exists."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.configuration["release"]["health"].update(url=health.url, deadline="300ms")
    scratch.write()
    return scratch


def test_watch_in_the_same_line_is_of_that_release(chain: InvokeProject) -> None:
    """B is prepared during the deploy of A: the watch of A ends at once, and restores nothing."""
    (chain.root / "meanwhile").touch()
    done = chain.run("release.prepare", "--release-id", "A", "deploy", *WATCH)
    assert done.returncode == 1, done
    assert "INCONCLUSIVE  release A" in done.stdout
    assert "Release B was prepared meanwhile" in done.stdout.replace("\n  ", " ")
    assert (chain.root / "state.txt").read_text() == "deployed"


def test_rollback_in_the_same_line_restores_the_state_before_that_release(chain: InvokeProject) -> None:
    """Alone it restores; with B meanwhile it is refused, and the message names the command that undoes both."""
    done = chain.run("release.prepare", "--release-id", "A0", "deploy", "release.rollback")
    assert (done.returncode, (chain.root / "state.txt").read_text()) == (0, "one"), done
    (chain.root / "meanwhile").touch()
    done = chain.run("release.prepare", "--release-id", "A", "deploy", "release.rollback")
    assert (done.returncode, (chain.root / "state.txt").read_text()) == (1, "deployed"), done
    message = " ".join(done.stderr.split())
    assert "Release B was prepared meanwhile, so the rollback of A was cancelled." in message
    assert "inv release.rollback --snapshot A_snapshot_" in message


def test_release_id_in_a_step_of_its_own(chain: InvokeProject) -> None:
    """It is watched by its id; an unknown one ends with 2, and a superseded one with 1."""
    assert chain.run("release.prepare", "--release-id", "A").returncode == 0
    assert chain.document(*WATCH, "--release-id", "A")["releaseId"] == "A"
    done = chain.run(*WATCH, "--release-id", "X", "--json")
    assert (done.returncode, json.loads(done.stdout)["exitCode"]) == (2, 2)
    assert "The latest releases are A." in json.loads(done.stdout)["message"]
    assert chain.run("release.prepare", "--release-id", "B").returncode == 0
    late = chain.document(*WATCH, "--release-id", "A", code=1)
    assert (late["status"], late["rollback"]) == ("inconclusive", None)
    dry = chain.run("--dry", *WATCH, "--release-id", "A")
    assert "Would watch release A" in dry.stdout


def test_prepares_at_once_never_end_with_usage(scratch: InvokeProject) -> None:
    """Each of six is ready with an id of its own, or reports the lock."""
    processes = [scratch.start("release.prepare", "--json") for _ in range(6)]
    ids = []
    for process in processes:
        out, err = process.communicate(timeout=90)
        assert process.returncode in (0, 75), err
        ids += [json.loads(out)["releaseId"]] if process.returncode == 0 else []
    assert ids
    assert len(set(ids)) == len(ids)
