"""A watch rolls a release back at most once, after any earlier rollback and however that ended."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from release_tasks.stages.rollback.recovery import recover
from release_tasks.stages.watch.response import watch_context
from release_tasks.stages.watch.watching import WatchReport, watch_release
from tests.support.project import Project
from tests.support.rollback import roll_back, safety_id
from tests.support.watched_service import MakeRelease, ReadEvents, SetClock, WatchedService

KILLED = """
import json, os, signal, sys
from pathlib import Path
from release_tasks.core.events import StepBegan
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.attempt import precondition_now
from release_tasks.archive.pipeline import Pipeline
from release_tasks.tasks.project import load_settings

settings = load_settings({"release": json.loads(sys.argv[1])}, Path(sys.argv[2]))

def kill(event):
    if isinstance(event, StepBegan) and event.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

precondition = precondition_now(Pipeline(settings.release.root))
rollback(settings, RollbackRequest(only_while=precondition), kill)
"""


@pytest.fixture
def failing(watched: Project, service: WatchedService, release: MakeRelease) -> Project:
    """Return a project with two releases; the latest is unhealthy, and a watch may roll it back."""
    watched.overrides["watch"].update(rollback=True)
    release(watched, "v0")
    release(watched, "v1")
    watched.damage()
    service.script = [503]
    return watched


def watch(project: Project) -> WatchReport:
    return watch_release(project.settings, clock=SetClock())


def snapshot_of(project: Project, release_id: str) -> str:
    """Return the id of the snapshot of a release."""
    found = project.pipeline.catalogue.published()[0]
    return next(snapshot.snapshot_id for snapshot in found if snapshot.release_id == release_id)


def kill_at(project: Project, step: str) -> None:
    """Let the rollback of a watch be killed at the start of ``step``."""
    words = [sys.executable, "-c", KILLED, json.dumps(project.raw), str(project.folder), step]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


def _undo(project: Project) -> None:
    roll_back(project, safety_id(roll_back(project)))


def _kill_and_recover(project: Project, step: str) -> None:
    kill_at(project, step)
    recover(project.settings)


def _restore_and_lose_the_state(project: Project) -> None:
    roll_back(project)
    project.pipeline.state_path.unlink()


def _restore_and_lose_the_log(project: Project) -> None:
    roll_back(project)
    project.pipeline.audit.path.unlink()


EARLIER: dict[str, Callable[[Project], object]] = {
    "a person": lambda project: roll_back(project),
    "a person, to another snapshot": lambda project: roll_back(project, snapshot_of(project, "v0")),
    "a person, and it was undone": _undo,
    "a watch": lambda project: watch(project),
    "a watch that was killed before the swap": lambda project: _kill_and_recover(project, "stage"),
    "a watch that was killed in the swap": lambda project: _kill_and_recover(project, "swap"),
    "a watch that was killed before the restart": lambda project: _kill_and_recover(project, "health"),
    "a restore whose state was lost": _restore_and_lose_the_state,
    "a restore whose log was lost": _restore_and_lose_the_log,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLIER)
def test_a_release_that_was_rolled_back_is_not_rolled_back_by_a_watch(failing: Project, name: str) -> None:
    """A second bad migration follows. The watch ends with 1, changes nothing and says what a person can type."""
    EARLIER[name](failing)
    database = sqlite3.connect(failing.database, isolation_level=None)
    database.execute("DROP TABLE ledger")
    database.close()
    failing.mcp.write_text("changed by a second bad release")
    before = failing.mcp.read_text()
    count = len(failing.pipeline.catalogue.published()[0])
    report = watch(failing)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "watch did not roll back:" in report.diagnostics[0] and "at most once" in report.diagnostics[0]
    command = f"inv release.rollback --snapshot {snapshot_of(failing, 'v1')}"
    assert report.diagnostics[1] == f"To roll back manually: {command}"
    assert failing.mcp.read_text() == before
    assert len(failing.pipeline.catalogue.published()[0]) == count
    outcome = roll_back(failing, snapshot_of(failing, "v1"))  # the command that was named
    if name == "a restore whose log was lost":  # where the snapshot comes from is then for a person to know
        assert f"{command} --unverified" in outcome.diagnostics[-1]
        outcome = roll_back(failing, snapshot_of(failing, "v1"), unverified=True)
    assert outcome.restored_assets


@pytest.mark.slow
def test_a_supervisor_that_starts_the_watch_again_causes_one_rollback(failing: Project, events: ReadEvents) -> None:
    """The service stays unhealthy, and a script damages the state between the watches."""
    outcomes = []
    for _ in range(4):
        outcomes.append(watch(failing).rollback)
        failing.damage_rows()
    assert [outcome is not None for outcome in outcomes] == [True, False, False, False]
    assert [event["event"] for event in events(failing)].count("rollback.started") == 1


ALLOWED: dict[str, Callable[[Project, MakeRelease], Any]] = {
    "no earlier rollback": lambda project, release: None,
    "a rollback before the prepare": lambda project, release: _roll_back_and_prepare(project, release),
    "a person's attempt that changed nothing": lambda project, release: _refuse(project),
}


def _roll_back_and_prepare(project: Project, release: MakeRelease) -> None:
    roll_back(project)
    release(project, "v2")
    project.damage()


def _refuse(project: Project) -> None:
    copy = project.pipeline.catalogue.path(snapshot_of(project, "v0")) / "assets" / "mcp" / "mcp.json"
    copy.write_text("{}")
    assert roll_back(project, snapshot_of(project, "v0")).status == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ALLOWED)
def test_the_first_rollback_of_a_release_is_made(failing: Project, release: MakeRelease, name: str) -> None:
    """What left the state of this release as it was does not use up the one rollback."""
    ALLOWED[name](failing, release)
    report = watch(failing)
    assert report.rollback is not None, report.diagnostics
    assert report.rollback.safety_snapshot_id is not None


def test_a_handwritten_state_is_no_rollback(failing: Project) -> None:
    """The log decides whether a release was rolled back."""
    name = snapshot_of(failing, "v1")
    state = {"snapshotId": name, "status": "success", "updatedAt": "", "detail": "", "restoredSnapshotId": name}
    failing.pipeline.state_path.write_text(json.dumps(state))
    assert watch_context(failing.settings, failing.pipeline).blocker == ""
