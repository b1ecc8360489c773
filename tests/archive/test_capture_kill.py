"""A killed or interrupted capture leaves nothing that counts as a snapshot."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.retention import retain
from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import interruptible
from tests.support.project import Project

CAPTURE = """
import sys
from pathlib import Path
from release_tasks.assets.directory import DIRECTORY
from release_tasks.assets.file import FILE
from release_tasks.assets.sqlite.kind import SQLITE
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import interruptible
from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.pipeline import Pipeline
import apsw, cattrs
import os
root, state = Path(sys.argv[1]), Path(sys.argv[2])
assets = {
    "database": SQLITE.asset(state / "app.db"),
    "identity": DIRECTORY.asset(state / "identity"),
    "mcp": FILE.asset(state / "mcp.json"),
}
for line in sys.stdin:
    # A child for each run: the expensive imports happen once.
    child = os.fork()
    if child:
        print(child, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    try:
        with interruptible():
            name = line.strip()
            request = CaptureRequest(snapshot_id=name, release_id="v1", kind="release", retention_limit=5)
            capture_snapshot(Pipeline(root).catalogue, assets, request)
            os._exit(0)
    except Interrupted as interrupted:
        os._exit(interrupted.exit_code)
"""


@pytest.fixture
def large_project(project: Project) -> Project:
    """Return a project of 8 MiB of rows and 40 files."""
    connection = sqlite3.connect(project.database)
    connection.execute("CREATE TABLE filler(x)")
    connection.executemany("INSERT INTO filler VALUES (randomblob(4000))", [()] * 2000)
    connection.commit()
    connection.close()
    for number in range(40):
        (project.identity / f"key{number}").write_bytes(os.urandom(500))
    return project


class CaptureProcess:
    """A process that forks a child for each capture, so that the child can be killed."""

    def __init__(self, project: Project) -> None:
        command = [sys.executable, "-c", CAPTURE, str(project.pipeline.root), str(project.state)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child = 0

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, snapshot_id: str) -> None:
        """Start a capture; it runs when this returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{snapshot_id}\n")
        self.process.stdin.flush()
        self.child = int(self._answer())

    def wait(self) -> int:
        """Return how the capture ended: its exit code, or a signal as a negative number."""
        return int(self._answer().removeprefix("ended "))

    def end(self, number: int) -> int:
        """Send a signal to the capture and return how it ended; a finished capture exit_codes with 0."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)
        return self.wait()


@pytest.fixture
def capture_process(large_project: Project) -> Iterator[CaptureProcess]:
    """Run a process that captures the large project on request."""
    started = CaptureProcess(large_project)
    yield started
    started.process.communicate(timeout=20)


@pytest.mark.slow
def test_killed_capture_leaves_no_snapshot(large_project: Project, capture_process: CaptureProcess) -> None:
    """After each of 20 kills every published snapshot is verified, and the next clean-up removes all else."""
    chance = random.Random(11)
    catalogue = large_project.pipeline.catalogue
    capture_process.start("whole")
    start = time.monotonic()
    assert capture_process.wait() == 0
    length = time.monotonic() - start
    cut_short = 0
    for run in range(20):
        capture_process.start(f"run{run}")
        time.sleep(chance.uniform(0, length))  # the kill comes at a random moment
        was_killed = capture_process.end(signal.SIGKILL) == -signal.SIGKILL
        cut_short += was_killed
        verdicts = verify_all(catalogue)
        assert [verdict for verdict in verdicts if verdict.status != "verified"] == []
        assert was_killed or f"run{run}" in [verdict.snapshot_id for verdict in verdicts]
        catalogue.store.clean_up()
        assert sorted(os.listdir(catalogue.store.folder)) == sorted(verdict.snapshot_id for verdict in verdicts)
        assert large_project.leftovers() == []
        retain(catalogue, 1, set())
    assert cut_short >= 5


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_capture_removes_its_files(
    large_project: Project, capture_process: CaptureProcess, number: int, code: int
) -> None:
    """The next run has nothing to remove, and the exit code names the signal."""
    catalogue = large_project.pipeline.catalogue
    exit_codes = []
    for run in range(60):
        capture_process.start(f"run{run}")
        captured = catalogue.store.partial_path(f"run{run}") / "assets" / "database"
        deadline = time.monotonic() + 20
        while not captured.exists() and not catalogue.path(f"run{run}").exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        exit_codes.append(capture_process.end(number))
        assert not catalogue.store.leftovers()
        assert large_project.leftovers() == []
        published = [verdict.snapshot_id for verdict in verify_all(catalogue) if verdict.status == "verified"]
        assert (f"run{run}" in published) == (exit_codes[-1] == 0)
        if code in exit_codes:
            break
    assert set(exit_codes) <= {0, code}
    assert code in exit_codes


def test_signal_at_the_first_folder_of_a_capture_leaves_no_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives while the partial folder is created."""
    mkdir = os.mkdir

    def mkdir_and_signal(path: Any, mode: int = 0o777, **options: Any) -> None:
        mkdir(path, mode, **options)
        if str(path).endswith(".partial"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "mkdir", mkdir_and_signal)
    with pytest.raises(Interrupted), interruptible():
        project.capture()
    assert not project.pipeline.catalogue.store.leftovers()


@pytest.mark.slow
def test_snapshot_is_flushed_before_it_is_published(project: Project, tmp_path: Path) -> None:
    """Every file and folder is flushed before the rename that publishes, and the catalogue after it."""
    project.pipeline.catalogue.store.folder.mkdir(parents=True)
    output = tmp_path / "trace"
    command = [sys.executable, "-c", CAPTURE, str(project.pipeline.root), str(project.state)]
    trace = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(output)]
    try:
        done = subprocess.run([*trace, *command], input="run7\n", capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("NOT TESTED: strace is not installed")
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip("NOT TESTED: strace may not trace here")
    assert done.returncode == 0, done.stderr
    steps = output.read_text().splitlines()
    published = next(index for index, step in enumerate(steps) if "rename" in step and '/run7"' in step)
    before = "\n".join(steps[:published])
    snapshot = project.pipeline.catalogue.path("run7")
    for path in [snapshot, *snapshot.rglob("*")]:
        if path.is_symlink() or path.name == "metadata.json":
            continue
        partial = str(path).replace("/run7", "/.run7.partial", 1)
        assert f"<{partial}>" in before, partial
    assert "rollback-audit.log" in steps[published - 1], "the event is on disk"
    assert "metadata.json" in "".join(steps[published - 5 : published - 1])
    assert any(f"<{project.pipeline.catalogue.store.folder}>" in step for step in steps[published:])
