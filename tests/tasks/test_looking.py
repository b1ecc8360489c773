"""Every task that is documented as changing nothing leaves live state and pipeline as they are, in every state.

Names, bytes, modes, owners, inodes and modification times of files and folders are compared after each task.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from release_tasks.core import scratch
from release_tasks.core.errors import ExitCode, Interrupted, StageFailed
from release_tasks.core.events import BytesMoved, Event
from release_tasks.core.scratch import scratch_folder
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.marks import NEEDS_MOUNTS, NEEDS_ROOT
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.files import listing
from tests.support.health import Health
from tests.support.lock_holder import lock_holder
from tests.support.looking import LOOKS, Answer, look
from tests.support.project import Project
from tests.support.rollback import roll_back
from tests.support.swap_crash import crash_in_mid_swap
from tests.support.users import as_user

# A service that is killed in a transaction whose pages SQLite has written to the file: the journal is hot.
CRASH = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 5")
database.execute("BEGIN")
database.execute("UPDATE accounts SET balance = balance + 1")
if sys.argv[2] == "hot":
    database.execute("CREATE TABLE large AS WITH RECURSIVE n(i) AS "
                     "(VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4000) SELECT i, randomblob(100) b FROM n")
else:
    database.execute("COMMIT")
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_LOOK = """
import os, signal
from pathlib import Path
from release_tasks.core.scratch import scratch_folder
with scratch_folder(10, [], Path("/nowhere")) as folder:
    (folder / "copy").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Negative answers that are right in every state: no gateway runs, and no such code exists.
NEGATIVE = {"gateway.status": 1, "--dry pairing.approve telegram ABCD2345": 1}


# What must write says which file it cannot write, and changes nothing.
REFUSED = {
    "release.drill": "Read-only file system",
    "release.drill --scratch /tmp": "The result was not recorded",
    "release.report": "Read-only file system",
    "release.rollback": "Read-only file system",
    "release.prepare": "Read-only file system",
}


pytestmark = pytest.mark.slow  # each case types every task that only reads


def release_twice(project: Project, health: Health) -> Project:
    """Make two releases, the latest of which was rolled back; the service wrote a row since."""
    project.overrides["health.url"] = health.url
    write_configuration(project)
    for release_id in ("v1", "v2"):
        assert prepare(project.settings, passed_preflight(), release_id).status == "ready"
    project.damage()
    assert roll_back(project).status == "restored"
    project.damage_rows()
    return project


@pytest.fixture
def released(project: Project, health: Health) -> Project:
    """Return a project with two releases."""
    return release_twice(project, health)


@pytest.fixture
def reachable(health: Health, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Return such a project in a folder that another user can reach: pytest makes its own folders private."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("HOME", folder)
        project = release_twice(Project(Path(folder)), health)
        look(project.folder)  # imports all modules, which another user may not be able to read
        yield project


@pytest.fixture
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """Return a maker of mounts, which are undone after the test."""
    made = Mounts(tmp_path_factory.mktemp("images"))
    yield made
    made.clear()


def write_configuration(project: Project) -> None:
    configuration = {"tasks": {"executor_class": "release_tasks.executor.StageExecutor"}, "release": project.raw}
    (project.folder / "invoke.yaml").write_text(json.dumps(configuration))


def crash(project: Project, how: str) -> None:
    """Let a service crash: with a hot journal, or with committed rows in the WAL."""
    words = [sys.executable, "-c", CRASH, str(project.database), how]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


def require_unchanged(project: Project, expected: dict[str, int], look_at: Callable[[str], Answer]) -> None:
    """Run every task, compare everything after each, and require the exit codes: 0, or those that are ``expected``."""
    before = listing(project.folder)
    for line in LOOKS:
        answer = look_at(line)
        after = listing(project.folder)
        changed = sorted(path for path in {**before, **after} if before.get(path) != after.get(path))
        assert not changed, (line, changed, answer.text)
        assert answer.code == {**NEGATIVE, **expected}.get(line, 0), (line, answer.code, answer.text)
        assert "Traceback" not in answer.text
    left = list(Path(tempfile.gettempdir()).glob(f"release-tasks-*-*/{project.database.name}"))
    assert left == []


def here(project: Project) -> Callable[[str], Answer]:
    return lambda line: look(project.folder, (line,))[0]


def _keep_the_wal(project: Project) -> None:
    crash(project, "committed")
    Path(f"{project.database}-shm").unlink()
    assert Path(f"{project.database}-wal").stat().st_size


def _hot_journal(project: Project) -> None:
    database = sqlite3.connect(project.database)
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    crash(project, "hot")
    assert Path(f"{project.database}-journal").stat().st_size


def _foreign_leftovers(project: Project) -> None:
    """Leave what a killed prepare leaves: an unpublished snapshot and a temporary file."""
    (project.pipeline.catalogue.store.partial_path("v3_snapshot") / "assets").mkdir(parents=True)
    (project.pipeline.manifests / ".v3.json.1.tmp").write_text("{")


def _interrupted_rollback(project: Project) -> None:
    project.damage()
    crash_in_mid_swap(project, "rename_into_place", 1, after=True)


# The diagnosis of each state ends with 1 when there is something to do.
STATES: dict[str, tuple[Callable[[Project], object], dict[str, int]]] = {
    "at rest": (lambda project: None, {}),
    "WAL without -shm": (_keep_the_wal, {}),
    "WAL with -shm": (lambda project: crash(project, "committed"), {}),
    "hot journal": (_hot_journal, {}),
    "empty WAL": (lambda project: Path(f"{project.database}-wal").touch(), {}),
    "damaged database": (lambda project: project.database.write_bytes(b"x" * 5000), {"release.diagnose": 1}),
    "state missing": (lambda project: shutil.rmtree(project.state), {"release.diagnose": 1}),
    "leftovers": (_foreign_leftovers, {}),
    "interrupted rollback": (_interrupted_rollback, {"release.diagnose": 1}),
    "pipeline absent": (
        lambda project: shutil.rmtree(project.pipeline.root),
        {
            "release.report --output PAGE": 2,
            "release.diff v1 v2": 2,
            "release.rollback --plan": 1,
            "--dry release.rollback": 1,
            "--dry release.drill": 1,
            "--dry release.report": 2,
            "--dry release.extract --to PAGE": 1,
        },
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_looking_changes_nothing(released: Project, name: str) -> None:
    """The state is what a crashed or bad release leaves."""
    make, expected = STATES[name]
    make(released)
    require_unchanged(released, expected, here(released))


def test_looking_works_while_another_command_holds_the_lock(released: Project) -> None:
    """Its lock and the record of its holder stay as they are, and the answers name it."""
    with lock_holder(released.pipeline.root, "release.prepare"):
        require_unchanged(released, {}, here(released))
        plan = here(released)("release.rollback --plan")
    assert "another command is running, 'release.prepare' (pid" in " ".join(plan.text.split())


@pytest.mark.root
@NEEDS_MOUNTS
@pytest.mark.parametrize("name", ["hot journal", "WAL without -shm"])
def test_looking_works_on_a_read_only_disk(released: Project, mounts: Mounts, name: str) -> None:
    """State and pipeline are on an ext4 that was remounted read-only, as after an error of the disk."""
    STATES[name][0](released)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(released.folder, copy, symlinks=True, dirs_exist_ok=True)
        mounts.ext4(released.folder, 64 << 20)
        shutil.copytree(copy, released.folder, symlinks=True, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(released.folder)], check=True)
    require_unchanged(released, {}, here(released))
    for line, reason in REFUSED.items():
        before, answer = listing(released.folder), here(released)(line)
        assert (answer.code, listing(released.folder)) == (1, before), (line, answer.text)
        assert reason in " ".join(answer.text.split()) and "Traceback" not in answer.text, answer.text


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("name", ["hot journal", "WAL without -shm"])
def test_looking_works_in_folders_without_the_right_to_write(reachable: Project, name: str) -> None:
    """Every folder of state and pipeline is read-only by its mode, for a user who is not root."""
    STATES[name][0](reachable)
    with as_user(reachable.folder, 0o500):
        require_unchanged(reachable, {}, here(reachable))


def test_a_look_makes_no_copy_in_the_folder_of_the_state(released: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with TMPDIR in its own data folder: the times of that folder stay."""
    released.damage_rows()
    monkeypatch.setenv("TMPDIR", str(released.state))
    before = os.stat(released.state)
    plan_rollback(released.settings)
    assert os.stat(released.state).st_mtime_ns == before.st_mtime_ns


@pytest.mark.root
@NEEDS_ROOT
def test_a_pipeline_of_another_user_is_one_sentence(reachable: Project) -> None:
    """Another user may read neither manifests nor lock: each task says which path, and changes nothing."""
    os.chmod(reachable.folder, 0o711)
    before = listing(reachable.folder)
    with as_user(reachable.state):
        answers = look(reachable.folder)
    assert listing(reachable.folder) == before
    assert all(answer.code in (0, 1, 2) and "Traceback" not in answer.text for answer in answers)
    refused = {answer.line for answer in answers if "Permission denied" in answer.text}
    assert {"release.status", "release.diagnose", "release.rollback --plan", "release.audit"} <= refused


def test_a_look_that_is_interrupted_or_killed_leaves_nothing(released: Project, tmp_path: Path) -> None:
    """After a signal the copies are removed at once; after SIGKILL, by the next look."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    variables = {**os.environ, "TMPDIR": str(temporary)}
    assert subprocess.run([sys.executable, "-c", KILLED_LOOK], env=variables, check=False).returncode == -signal.SIGKILL
    assert len(list(temporary.iterdir())) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))

        def interrupt(event: Event) -> None:
            assert len(list(temporary.iterdir())) == 1
            if isinstance(event, BytesMoved) and event.action == "check":
                raise Interrupted(ExitCode.SIGTERM)

        with scratch_folder(10, [], Path("/nowhere")):
            assert len(list(temporary.iterdir())) == 1  # the folder of the killed run has gone
        with pytest.raises(Interrupted):
            plan_rollback(released.settings, emit=interrupt)
    assert list(temporary.iterdir()) == []


def test_copies_are_made_where_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: Mounts) -> None:
    """First TMPDIR, but never within the live state; else the pipeline folder; else a sentence with the sizes."""
    fallback = tmp_path / "pipeline"
    fallback.mkdir()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with scratch_folder(1 << 20, [tmp_path / "state"], fallback) as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
    with scratch_folder(1 << 20, [tmp_path], fallback) as folder:
        assert folder.parent in (Path("/tmp"), Path("/var/tmp"))
    monkeypatch.setattr(scratch, "_SYSTEM", ())
    with scratch_folder(1 << 20, [tmp_path], fallback) as folder:
        assert folder.parent == fallback
    with (
        pytest.raises(StageFailed, match=r"no space for a copy of .* free\. Set TMPDIR"),
        scratch_folder(1 << 60, [], fallback),
    ):
        pytest.fail("a disk of an exbibyte")
