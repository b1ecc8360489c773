"""SIGKILL at system calls spread over a rollback, and over recovery: all old or all new, never a mix.

``strace`` counts a rollback's calls by name, then runs it again and kills it at the N-th call of one name.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.rollback.engine import RollbackRequest, rollback
from release_tasks.rollback.recovery import recover

STRACE = shutil.which("strace")
NEEDS_STRACE = pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)")

# Every call of Linux that changes what is on disk, and the flushes between them.
MUTATING = frozenset(
    {
        *(
            "write",
            "pwrite64",
            "writev",
            "pwritev",
            "ftruncate",
            "truncate",
            "fallocate",
            "copy_file_range",
            "sendfile",
        ),
        *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
        *("mkdir", "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "lchown"),
        *("utimensat", "ioctl", "fsync", "fdatasync", "msync"),
    }
)

DRIVER = """
import json, sys
from pathlib import Path
from release_tasks.config.load import load_settings
from release_tasks.rollback.engine import RollbackRequest, rollback
from release_tasks.rollback.recovery import recover
folder = Path(sys.argv[1])
settings = load_settings({"release": json.loads((folder / "raw.json").read_text())}, folder)
if sys.argv[2] == "rollback":
    print(rollback(settings, RollbackRequest()).status)
else:
    print(recover(settings).status)
"""

HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.execute("SELECT count(*) FROM ledger").fetchone()
print("open", flush=True)
sys.stdin.read()
database.close()
"""


class Scene:
    """A damaged project with a snapshot, kept as a template; ``fresh`` lays it out anew for each kill."""

    def __init__(self, project: Any, folder: Path) -> None:
        self.project = project
        self.template = folder / "template"
        self.new = project.content()
        project.capture()
        project.damage()
        self.old = project.content()
        (project.folder / "raw.json").write_text(json.dumps(project.raw))
        shutil.copytree(project.folder, self.template, symlinks=True)
        self.traces = folder / "traces"
        self.traces.mkdir()

    def fresh(self) -> None:
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    def run(self, what: str, *before: str) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-B", "-c", DRIVER, str(self.project.folder), what]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    def count(self, what: str) -> Counter[str]:
        """Run under strace without a kill; for each name, how often the thread that uses it most does.

        strace counts ``when=N`` for each thread by itself, and a capture has several.
        """
        trace = self.traces / "count"
        assert STRACE
        done = self.run(what, STRACE, "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(sorted(MUTATING))}")
        assert done.returncode == 0, done.stderr
        calls = (line.split(maxsplit=2)[:2] for line in trace.read_text().splitlines() if "(" in line)
        by_thread = Counter((thread, call.partition("(")[0]) for thread, call in calls)
        most: Counter[str] = Counter()
        for (_, name), count in by_thread.items():
            if name in MUTATING:
                most[name] = max(most[name], count)
        return most

    def kill(self, what: str, name: str, number: int) -> bool:
        """Run and kill at that call; False when it came through."""
        assert STRACE
        inject = f"inject={name}:signal=SIGKILL:when={number}"
        done = self.run(what, STRACE, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject)
        return done.returncode != 0

    def check(self, point: str) -> None:
        """Recover and compare: all old or all new, chain intact, nothing left over, and a way on."""
        settings = self.project.settings
        report = recover(settings)
        now = self.project.content()
        assert now in (self.old, self.new), (point, report, differences(now, self.old, self.new))
        assert self.integrity() == "ok", point
        assert not self.project.pipeline.journal_path.exists(), point
        verdict = self.project.pipeline.audit.verify(self.project.pipeline.anchors())
        assert verdict.intact, (point, verdict.problems)
        assert recover(settings).status == "clean", point
        assert rollback(settings, RollbackRequest()).status in ("restored", "noop"), point
        assert self.project.content() == self.new, point
        assert self.project.strays() == [], point

    def integrity(self) -> str:
        database = sqlite3.connect(self.project.database)
        try:
            return str(database.execute("PRAGMA integrity_check").fetchone()[0])
        finally:
            database.close()


def differences(now: Any, old: Any, new: Any) -> str:
    """Say of each part whether it is old, new or neither."""
    told = ["rows " + ("old" if now["rows"] == old["rows"] else "new" if now["rows"] == new["rows"] else "neither")]
    for path in sorted({*old["files"], *new["files"], *now["files"]}):
        states = [s.get(path) for s in (now["files"], old["files"], new["files"])]
        if states[1] != states[2]:
            told.append(f"{path} {'old' if states[0] == states[1] else 'new' if states[0] == states[2] else 'neither'}")
    return ", ".join(told)


@pytest.fixture(params=["wal", "delete"])
def scene(make_project: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    """A damaged project in either journal mode."""
    return Scene(make_project("p", request.param), tmp_path)


@pytest.fixture
def hold_open() -> Iterator[Callable[[Path], None]]:
    """Return a function that lets another process hold a database open until the test ends, or the next call."""
    running: list[subprocess.Popen[str]] = []

    def end() -> None:
        while running:
            running.pop().communicate(timeout=30)

    def hold(database: Path | None) -> None:
        end()
        if database is not None:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            running.append(process)
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "open"

    yield hold
    end()


def spread(counts: Counter[str], each: int) -> list[tuple[str, int]]:
    """Pick up to ``each`` points of every name, first and last among them, the others evenly between."""
    points = []
    for name, count in sorted(counts.items()):
        chosen = {1, count} | {1 + round(i * (count - 1) / max(each - 1, 1)) for i in range(each)}
        points += [(name, number) for number in sorted(chosen)]
    return points


@NEEDS_STRACE
def test_a_kill_at_a_few_moments_leaves_old_or_new(make_project: Callable[..., Any], tmp_path: Path) -> None:
    """The last calls of each kind, where the swap is: a few points, so that the fast selection has this too."""
    scene = Scene(make_project("p"), tmp_path)
    counts = scene.count("rollback")
    points = [("rename", counts["rename"] - 4), ("fsync", counts["fsync"] - 6), ("pwrite64", counts["pwrite64"])]
    points += [("renameat2", 1)]
    killed = 0
    for name, number in points:
        scene.fresh()
        killed += scene.kill("rollback", name, number)
        scene.check(f"{name} {number}")
    assert killed >= len(points) - 1


@NEEDS_STRACE
@pytest.mark.slow
def test_a_kill_while_a_json_file_is_replaced_leaves_nothing_lying_about(
    make_project: Callable[..., Any], tmp_path: Path
) -> None:
    """State, journal and lock note are written beside and renamed: the next command clears what was not renamed."""
    scene = Scene(make_project("p"), tmp_path)
    counts = scene.count("rollback")
    for number in range(2, counts["rename"], 3):
        scene.fresh()
        assert scene.kill("rollback", "rename", number)
        scene.check(f"rename {number}")


@NEEDS_STRACE
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open in a service"])
def test_a_kill_at_any_call_leaves_old_or_new(scene: Scene, hold_open: Any, is_open: bool) -> None:
    """Sixty to a hundred moments over the whole rollback, whether or not a process holds the database open."""
    hold_open(scene.project.database if is_open else None)
    counts = scene.count("rollback")
    points = spread(counts, 6)
    killed = 0
    for name, number in points:
        hold_open(None)
        scene.fresh()
        hold_open(scene.project.database if is_open else None)
        killed += scene.kill("rollback", name, number)
        scene.check(f"{name} {number} of {counts[name]}")
    assert killed > len(points) * 0.8


@NEEDS_STRACE
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_during_recovery_leaves_old_or_new(scene: Scene) -> None:
    """Killed at the first exchange, then killed again at moments spread over the recovery."""
    scene.fresh()
    assert scene.kill("rollback", "renameat2", 1)
    assert scene.project.pipeline.journal_path.exists()
    # Inode numbers tell old from new, so what lies in mid-swap cannot be copied: it is made anew each time.
    counts = scene.count("recover")
    killed = 0
    points = spread(counts, 4)
    for name, number in points:
        scene.fresh()
        assert scene.kill("rollback", "renameat2", 1)
        killed += scene.kill("recover", name, number)
        scene.check(f"recovery: {name} {number} of {counts[name]}")
        assert scene.project.content() == scene.new
    assert killed > len(points) * 0.8
