"""All databases or none: the locks of all of them are held before the first one changes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from release_tasks.core.errors import Interrupted
from release_tasks.core.events import Event, Noted
from release_tasks.core.interrupt import interruptible
from release_tasks.core.records import RollbackOutcome
from tests.support.processes import await_true
from tests.support.project import MakeProject, Project
from tests.support.rollback import roll_back

# Holds a transaction until its standard input ends, or dies in it.
_HOLDER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for statement in sys.argv[3:]:
    database.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.read()
if sys.argv[2] == "dies":
    os.kill(os.getpid(), 9)
database.execute("ROLLBACK")
database.close()
"""
# Adds one row to each database in turn, and prints the number of each row when it is committed.
_WRITER = """
import itertools, signal, sqlite3, sys
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
databases = [sqlite3.connect(path, isolation_level=None, timeout=60) for path in sys.argv[1:]]
for number in itertools.count():
    if stop:
        break
    for database in databases:
        database.execute("INSERT INTO notes VALUES (?)", (number,))
    print(number, flush=True)
"""
WRITE = ["BEGIN IMMEDIATE"]
READ = ["BEGIN", "SELECT count(*) FROM notes"]


class Fleet:
    """A project with four databases; ``release`` was captured, and each database has a later row."""

    def __init__(self, project: Project, mode: str) -> None:
        self.project = project
        self.paths = [project.state / f"d{number}.db" for number in range(4)]
        for number, path in enumerate(self.paths):
            project.overrides[f"assets.d{number}"] = {"sqlite": f"state/{path.name}"}
            self.execute(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE notes(n)")
        project.capture()
        for path in self.paths:
            self.execute(path, "INSERT INTO notes VALUES (-1)")

    @staticmethod
    def execute(path: Path, *statements: str) -> None:
        database = sqlite3.connect(path, isolation_level=None, timeout=30)
        for statement in statements:
            database.execute(statement)
        database.close()

    def notes(self) -> list[list[int]]:
        """Return the rows of each database."""
        found = []
        for path in self.paths:
            database = sqlite3.connect(path, timeout=30)
            found.append([row[0] for row in database.execute("SELECT n FROM notes ORDER BY n")])
            database.close()
        return found

    def roll_back(self, lock_wait: str, emit: list[Event] | None = None) -> RollbackOutcome:
        self.project.overrides["lock_wait"] = lock_wait
        return roll_back(self.project, emit=(lambda event: None) if emit is None else emit.append)


@pytest.fixture(params=["wal", "delete"])
def fleet(request: pytest.FixtureRequest, make_project: MakeProject) -> Fleet:
    return Fleet(make_project("p", request.param), request.param)


@contextlib.contextmanager
def holder(path: Path, statements: list[str], *, how: str = "ends") -> Iterator[subprocess.Popen[str]]:
    """Hold a transaction in another process; it ends with the block, or when its standard input is closed."""
    command = [sys.executable, "-c", _HOLDER, str(path), how, *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(timeout=30)


@contextlib.contextmanager
def release_after(seconds: float, process: subprocess.Popen[str]) -> Iterator[None]:
    """Let a holder end after some seconds, while the block runs."""
    assert process.stdin is not None
    timer = threading.Timer(seconds, process.stdin.close)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def writer(paths: list[Path]) -> Iterator[list[int]]:
    """Write to the databases while the block runs; the list has the numbers of the rows that were committed."""
    committed: list[int] = []

    def collect(lines: IO[str]) -> None:
        for line in lines:
            committed.append(int(line))

    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, *map(str, paths)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=collect, args=(process.stdout,))
        reader.start()
        try:
            await_true(lambda: len(committed) > 3, 60)
            yield committed
        finally:
            process.terminate()
            reader.join()


@pytest.mark.slow
def test_one_busy_database_leaves_all_unchanged_and_loses_no_row(fleet: Fleet) -> None:
    """The holder is named, with the command to type next; a writer at work on the other databases keeps every row."""
    with (
        holder(fleet.paths[2], WRITE) as process,
        writer([fleet.paths[0], fleet.paths[1], fleet.paths[3]]) as committed,
    ):
        events: list[Event] = []
        outcome = fleet.roll_back("3s", events)
        assert outcome.status == "failed"
        before = len(committed)
        await_true(lambda: len(committed) > before, 60)
    message = outcome.diagnostics[0]
    assert f"{fleet.paths[2]} stayed locked by process {process.pid} ({sys.executable}" in message
    assert "for 3 s" in message and "Nothing live was changed" in message
    assert "To wait longer: inv release.rollback --lock-wait 2m" in message
    waits = [event.sentence for event in events if isinstance(event, Noted)]
    assert waits
    assert f"process {process.pid}" in waits[0] and "release.lock_wait" in waits[0]
    notes = fleet.notes()
    assert notes[2] == [-1]
    for index in (0, 1, 3):
        assert set(notes[index]) >= {-1, *committed}
    assert not fleet.project.pipeline.journal_path.exists()
    assert fleet.project.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ends", "dies"])
def test_a_lock_that_ends_in_time_is_waited_for(fleet: Fleet, how: str) -> None:
    """The rollback restores all databases when the holder ends its transaction, or is killed in it."""
    with holder(fleet.paths[1], WRITE, how=how) as process, release_after(0.5, process):
        outcome = fleet.roll_back("60s")
    assert outcome.status == "restored", outcome.diagnostics
    assert fleet.notes() == [[]] * 4


@pytest.mark.slow
def test_a_reader_blocks_in_rollback_mode_only(fleet: Fleet) -> None:
    """In WAL mode a reader blocks no restore. In rollback mode no database is committed while one has a reader."""
    is_wal = Path(f"{fleet.paths[0]}-wal").exists() or fleet.paths[0].read_bytes()[18] == 2
    with holder(fleet.paths[3], READ) as process:
        outcome = fleet.roll_back("500ms")
        assert outcome.status == ("restored" if is_wal else "failed"), outcome.diagnostics
        if not is_wal:
            assert f"process {process.pid}" in outcome.diagnostics[0]
            assert fleet.notes() == [[-1]] * 4
    assert is_wal or fleet.roll_back("30s").status == "restored"
    assert fleet.notes() == [[]] * 4


def test_short_readers_in_a_row_do_not_starve_the_restore(make_project: MakeProject) -> None:
    """In rollback mode, readers that overlap let the rollback in, because no new reader is admitted meanwhile."""
    fleet = Fleet(make_project("p", "delete"), "delete")
    code = (
        "import sqlite3, sys, time\n"
        "while True:\n"
        "    d = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "    d.execute('BEGIN'); d.execute('SELECT count(*) FROM notes').fetchall()\n"
        "    print('.', flush=True); time.sleep(0.03); d.close()\n"
    )
    with contextlib.ExitStack() as readers:
        for _ in range(3):
            process = readers.enter_context(
                subprocess.Popen([sys.executable, "-c", code, str(fleet.paths[0])], stdout=subprocess.PIPE, text=True)
            )
            readers.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == ".\n"
        assert fleet.roll_back("60s").status == "restored"
    assert fleet.notes() == [[]] * 4


@pytest.mark.slow
def test_a_signal_ends_the_wait_with_nothing_changed(fleet: Fleet) -> None:
    """SIGTERM during the wait is not delayed until the locks are free."""
    noted = threading.Event()

    def interrupt() -> None:
        noted.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    def emit(event: Event) -> None:
        if isinstance(event, Noted):
            noted.set()

    fleet.project.overrides["lock_wait"] = "60s"
    sender = threading.Thread(target=interrupt)
    sender.start()
    with holder(fleet.paths[0], WRITE):
        with pytest.raises(Interrupted), interruptible():
            roll_back(fleet.project, emit=emit)
        assert not fleet.project.pipeline.journal_path.exists()
    sender.join()
    assert fleet.notes() == [[-1]] * 4
    assert fleet.project.leftovers() == []
    assert fleet.roll_back("30s").status == "restored"


def test_two_names_of_one_database_are_refused_before_the_lock(make_project: MakeProject) -> None:
    """A hard link made after the configuration was read: the second lock would wait for the first."""
    project = make_project("p", "delete")
    other = project.state / "other.db"
    project.overrides["assets.other"] = {"sqlite": "state/other.db", "required": False}
    settings = project.settings
    sqlite3.connect(other).executescript("CREATE TABLE x(a)").close()
    project.capture()
    project.damage_rows()
    other.unlink()
    os.link(project.database, other)
    outcome = roll_back(project)
    assert settings.release.assets.keys() >= {"other"}
    assert outcome.status == "failed"
    assert "are the same database" in outcome.diagnostics[0]
    assert project.rows()[1] != []


def test_no_live_file_is_opened_directly_while_its_lock_is_held(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing any descriptor of a file would release the POSIX locks of this process on it."""
    from release_tasks.assets.sqlite.restore import LockedDatabase

    fleet = Fleet(make_project("p", "delete"), "delete")
    held: set[Path] = set()
    opened: list[str] = []

    def on_event(name: str, arguments: tuple[object, ...]) -> None:
        if name == "open" and held and str(arguments[0]) in {str(path) for path in held}:
            opened.append(str(arguments[0]))

    sys.addaudithook(on_event)
    original, commit = LockedDatabase.__init__, LockedDatabase.commit

    def note(self: LockedDatabase, live: Path, *rest: object) -> None:
        original(self, live, *rest)  # type: ignore[arg-type]
        held.add(live)

    def forget(self: LockedDatabase) -> None:
        commit(self)
        held.discard(self._live)

    monkeypatch.setattr(LockedDatabase, "__init__", note)
    monkeypatch.setattr(LockedDatabase, "commit", forget)
    assert fleet.roll_back("30s").status == "restored"
    assert held == set() and opened == []
