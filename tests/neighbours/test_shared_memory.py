"""Another user cuts the shared memory of a database while root uses it: SQLite would end with SIGBUS."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.sqlite import system_calls
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Event, StepBegan
from release_tasks.core.records import JournalStep, RollbackOutcome
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import roll_back
from release_tasks.stages.rollback.recovery import recover
from tests.support.neighbours.neighbour import NEEDS_NEIGHBOUR, USER
from tests.support.neighbours.street import Street

pytestmark = [pytest.mark.root, pytest.mark.timeout(120), NEEDS_NEIGHBOUR]

# Has the database open. Cuts its shared memory at each line of stdin, and in a loop after the line "loop".
_CUTTER = r"""
import os, select, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
# A WAL with frames: SQLite tries for 10 s to start an empty one again whose index is not as expected.
database.execute("INSERT INTO notes VALUES (1000, '')")
database.execute("DELETE FROM notes WHERE id = 1000")
print("ready", flush=True)
for line in sys.stdin:
    while True:
        try:
            os.truncate(sys.argv[1] + "-shm", 0)
        except OSError:
            pass
        if line != "loop\n" or select.select([0], [], [], 0)[0]:
            break
    print("cut", flush=True)
"""


class Cutter:
    """The process of the other user."""

    def __init__(self, database: Path) -> None:
        self._lock = threading.Lock()
        account = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        self._process = subprocess.Popen(
            [*account, os.path.realpath(sys.executable), "-I", "-S", "-c", _CUTTER, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    def cut(self) -> None:
        """Cut the shared memory once."""
        with self._lock:  # assets are captured in two threads
            self._say("once")
            assert self._process.stdout is not None and self._process.stdout.readline() == "cut\n"

    def loop(self) -> None:
        """Cut the shared memory again and again, until ``close``."""
        self._say("loop")

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@pytest.fixture
def street(ground: Path, monkeypatch: pytest.MonkeyPatch) -> Street:
    monkeypatch.setattr(system_calls, "_cut", set())  # a run of its own
    return Street(ground / "world", "wal")


@pytest.fixture
def cutter(street: Street) -> Iterator[Cutter]:
    cutter = Cutter(street.data / "app.db")
    yield cutter
    cutter.close()


def rollback(street: Street, act: Callable[[Event], None] = lambda _: None) -> RollbackOutcome:
    return roll_back(street.settings, street.snapshot_id, force=True, emit=act)


def moments() -> dict[str, Callable[[Event], bool]]:
    """Return the moments at which a database is open in the rollback, or will be soon."""
    return {
        "stage": lambda event: isinstance(event, StepBegan) and event.name == "stage",
        "write": lambda event: isinstance(event, BytesMoved) and event.action == "restore",
        "commit": lambda event: isinstance(event, StepBegan) and event.name == "swap",
        "every": lambda event: True,
    }


@pytest.mark.parametrize("moment", moments())
def test_rollback_succeeds_when_the_shared_memory_is_cut(street: Street, cutter: Cutter, moment: str) -> None:
    """The database is exchanged where SQLite cannot write it; nothing is left behind."""

    def act(event: Event) -> None:
        if moments()[moment](event):
            cutter.cut()

    outcome = rollback(street, act)
    assert outcome.status == "restored", outcome.diagnostics
    cutter.close()
    assert street.content() == street.new
    assert not Pipeline(street.settings.release.root).journal_path.exists()
    assert not [name for name in os.listdir(street.data) if ".release-tasks-" in name]
    assert street.damages() == []
    assert system_calls.was_cut(street.data / "app.db") == (moment != "stage")


def test_rollback_succeeds_next_to_a_process_that_never_stops(street: Street, cutter: Cutter) -> None:
    """The safety snapshot has the state before, which comes back."""
    cutter.loop()
    outcome = rollback(street)
    assert outcome.status == "restored", outcome.diagnostics
    cutter.close()
    assert street.content() == street.new
    assert outcome.safety_snapshot_id is not None
    assert roll_back(street.settings, outcome.safety_snapshot_id).status == "restored"
    assert street.content() == street.old


def test_undo_takes_the_old_content_from_the_safety_snapshot(
    street: Street, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut may hit SQLite after the commit, so the file that was exchanged may have the new content."""
    fail_after_databases(monkeypatch, StageFailed("it cannot be done."))
    outcome = rollback(street, lambda event: cutter.cut() if moments()["commit"](event) else None)
    assert outcome.status == "failed"
    assert "the earlier state is back in place" in outcome.diagnostics[0]
    cutter.close()
    assert street.content() == street.old


@pytest.mark.parametrize("number", [0, 1])
def test_recovery_succeeds_next_to_a_process_that_never_stops(
    street: Street, cutter: Cutter, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A rollback that was killed before or after its database changed is finished."""
    with monkeypatch.context() as patch:
        fail_after_databases(patch, SystemExit(), number)
        with pytest.raises(SystemExit):
            rollback(street)
    cutter.loop()
    assert recover(street.settings).status == "finished"
    cutter.close()
    assert street.content() == street.new


def fail_after_databases(monkeypatch: pytest.MonkeyPatch, error: BaseException, number: int = 1) -> None:
    """Let the step ``number`` of a swap raise an error; the database is its first step."""
    carry_out = swap.Swap._carry_out
    steps: list[object] = []

    def failing(self: swap.Swap, step: JournalStep, *rest: Any) -> None:
        steps.append(step)
        if len(steps) == number + 1:
            raise error
        carry_out(self, step, *rest)

    monkeypatch.setattr(swap.Swap, "_carry_out", failing)
