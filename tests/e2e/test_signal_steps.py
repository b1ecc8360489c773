"""Each signal at each step of each stage: the exit code, and nothing that is half-done.

A seeded sample; with EVERY_CALL in the environment every signal is tried at every step.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from release_tasks.core.clock import now, timestamp
from release_tasks.core.interrupt import STOP_SIGNALS
from release_tasks.core.lock import FileLock
from tests.support.forked_inv import ForkedInv
from tests.support.health import Health

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 20261
SAMPLE = 1  # of each stage
LINES = {
    "preflight": "release.preflight",
    "prepare": "release.prepare --release-id r3 --json",
    "rollback": "release.rollback --snapshot {first}",
    "recover": "release.recover",
    "drill": "release.drill --snapshot {first}",
    "watch": "release.watch --for 600ms",
    "verify": "release.verify --json",
    "report": "release.report --output page.html",
    "diagnose": "release.diagnose",
    "diff": "release.diff r1 r2",
    "extract": "release.extract --to extracted",
    "audit": "release.audit",
    "status": "release.status --json",
    "approve": "pairing.approve telegram ABCDEFGH",
    "chain": "release.prepare --release-id r3 release.rollback --snapshot {first} release.watch --for 600ms",
}
# One signal, the same one twice (an impatient operator), and what systemd sends.
SIGNALS = [*((number,) for number in STOP_SIGNALS), (signal.SIGHUP, signal.SIGTERM), (signal.SIGINT, signal.SIGQUIT)]


@frozen
class Prepared:
    """A project with two releases, in a folder that ``restore`` brings back to the same content."""

    root: Path
    template: Path
    first: str
    inv: ForkedInv

    def restore(self) -> None:
        """Bring every file of the project back."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)

    def state(self) -> tuple[str, list[tuple[str]], str]:
        """Return the content of the file, of the database and of the folder."""
        database = sqlite3.connect(self.root / "state" / "app.db")
        rows = database.execute("SELECT word FROM words").fetchall()
        database.close()
        state = self.root / "state"
        return (state / "file.txt").read_text(), rows, (state / "folder" / "key.txt").read_text()

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the audit log."""
        return [json.loads(line) for line in (self.root / "pipeline" / "rollback-audit.log").read_text().splitlines()]


def write_state(root: Path, word: str) -> None:
    """Give the file, the database and the folder the same content."""
    folder = root / "state" / "folder"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "state" / "file.txt").write_text(word)
    (folder / "key.txt").write_text(word)
    database = sqlite3.connect(root / "state" / "app.db")
    database.executescript(
        f"CREATE TABLE IF NOT EXISTS words(word); DELETE FROM words; INSERT INTO words VALUES('{word}')"
    )
    database.close()


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, environment: Callable[..., dict[str, str]]
) -> Iterator[Prepared]:
    """Return a project with two releases and the state ``three``, and a warm ``inv``."""
    home = tmp_path_factory.mktemp("signals")
    root = home / "theirs"
    root.mkdir()
    health = Health()
    configuration = {
        "tasks": {"executor_class": "release_tasks.executor.StageExecutor"},
        "release": {
            "root": "pipeline",
            "app": {"name": "theirs", "version": "2.1"},
            "health": {"url": health.url, "timeout": "2s", "deadline": "3s", "interval": "20ms"},
            "gates": {"quick": {"command": "true"}, "long": {"command": "sleep 0.4 & wait"}},
            "assets": {
                "database": {"sqlite": "state/app.db"},
                "file": {"file": "state/file.txt"},
                "folder": {"directory": "state/folder"},
            },
            "watch": {"min_samples": 3, "interval": "100ms"},
        },
        "pairing": {"credentials": "credentials"},
    }
    (root / "invoke.yaml").write_text(json.dumps(configuration))
    (root / "tasks.py").write_text("from release_tasks import ns\n")
    (root / "credentials").mkdir(mode=0o700)
    request = {
        "senderId": "4711",
        "code": "ABCDEFGH",
        "requestedAt": timestamp(now()),
        "expiresAt": "2999-01-01T00:00:00Z",
    }
    (root / "credentials" / "telegram-pairing.json").write_text(json.dumps({"requests": [request]}))
    with ForkedInv(environment(home)) as inv:
        for word, release_id in (("one", "r1"), ("two", "r2")):
            write_state(root, word)
            done = inv.run(root, "release.prepare", "--release-id", release_id)
            assert done.code == 0, done
        write_state(root, "three")
        manifest = json.loads((root / "pipeline" / "manifests" / "r1.json").read_text())
        template = home / "template"
        shutil.copytree(root, template, symlinks=True)
        yield Prepared(root, template, manifest["snapshot"]["snapshotId"], inv)
    health.close()


def processes_of(mark: str) -> list[int]:
    """Return the processes that have ``mark`` in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"FORKED_INV_MARK={mark}".encode() in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("stage", LINES)
def test_a_signal_at_a_step_leaves_nothing_half_done(prepared: Prepared, stage: str) -> None:
    """128 plus the first signal; no process, lock or file is left, and the state is the old one or the new one."""
    words = LINES[stage].format(first=prepared.first).split()
    begin(prepared, stage)
    whole = prepared.inv.run(prepared.root, *words)
    assert whole.code == 0 and whole.steps, whole
    every = [(at, signals) for at in range(len(whole.steps)) for signals in SIGNALS]
    for at, signals in every if "EVERY_CALL" in os.environ else random.Random(f"{SEED} {stage}").sample(every, SAMPLE):
        begin(prepared, stage)
        before = len(prepared.events())
        mark = f"{stage} {at} {' '.join(number.name for number in signals)}"
        ended = prepared.inv.run(prepared.root, *words, at=at, signals=signals, mark=mark)
        # Python runs the handlers of signals that arrive together in the order of their numbers.
        assert ended.code == 128 + min(signals), (mark, ended)
        assert "Traceback" not in ended.err, (mark, ended)
        if "--json" in words:
            json.loads(ended.out)
        events = {event["event"] for event in prepared.events()[before:]}
        if stage == "rollback" and at > 0:
            assert events & {"rollback.refused", "rollback.finished"}, (mark, events)
        assert_whole(prepared, stage, mark)


def begin(prepared: Prepared, stage: str) -> None:
    """Restore the project, for ``recover`` with a rollback that was killed in its swap."""
    prepared.restore()
    if stage == "recover":
        killed = prepared.inv.run(prepared.root, "release.rollback", "--snapshot", prepared.first, dies_in_swap=True)
        assert killed.code == -signal.SIGKILL, killed


def assert_whole(prepared: Prepared, stage: str, mark: str) -> None:
    """Check processes, lock, live state, records and log after a stopped command line."""
    root = prepared.root
    assert processes_of(mark) == [], mark
    with FileLock(root / "pipeline" / "lock").held() as is_free:
        assert is_free, mark
    assert prepared.inv.run(root, "release.recover").code == 0, mark
    assert not (root / "pipeline" / "lock.json").exists(), mark
    words = ("three", "one") if stage in ("rollback", "recover", "chain") else ("three",)
    assert prepared.state() in [(word, [(word,)], word) for word in words], mark
    assert {path.name for path in (root / "state").rglob("*")} == {"app.db", "file.txt", "folder", "key.txt"}, mark
    for line in ("release.audit", "release.verify"):
        assert prepared.inv.run(root, line).code == 0, mark
    if stage == "approve":
        pending = json.loads((root / "credentials" / "telegram-pairing.json").read_text())["requests"]
        approved = root / "credentials" / "telegram-allowFrom.json"
        admitted = json.loads(approved.read_text())["senderIds"] if approved.exists() else []
        assert (len(pending), admitted) in [(1, []), (0, ["4711"])], mark
