"""A database whose check does not end: SIGINT and SIGTERM end every command, and nothing is left half-done."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.hostile import make_endless

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_MOST_SECONDS = 10  # on a busy machine; one or two on a quiet one


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with one good release, whose service then wrote an endless index into its database."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tasks.py").write_text("from release_tasks import ns\n")
    configuration = {
        "root": "pipeline",
        "gates": {"ok": {"command": "true"}},
        "assets": {"database": {"sqlite": "state/app.db"}, "settings": {"file": "state/settings"}},
    }
    (folder / "invoke.yaml").write_text(json.dumps({"release": configuration}))
    (folder / "state").mkdir()
    (folder / "state" / "settings").write_text("one")
    database = sqlite3.connect(folder / "state" / "app.db")
    database.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance)")
    database.executemany("INSERT INTO accounts(balance) VALUES (?)", [(100,)] * 50)
    database.commit()
    database.close()
    assert run(folder, "release.prepare", "--release-id", "good").returncode == 0
    (folder / "state" / "settings").write_text("two")
    make_endless(folder / "state" / "app.db", "generated column")
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "invoke", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    with start(folder, *words) as process:
        out, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, out, errors)


def readers(process: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    """Return the processes of a command that read a database."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "-I" in child.cmdline():
                yield child
        except psutil.Error:
            continue


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "state").iterdir())}


COMMANDS = [
    (signal.SIGTERM, ("release.prepare",)),
    (signal.SIGTERM, ("release.rollback",)),
    (signal.SIGTERM, ("release.rollback", "--plan")),
    (signal.SIGINT, ("release.diagnose",)),
]


@pytest.mark.parametrize(("number", "words"), COMMANDS)
def test_a_signal_ends_a_check_without_an_end(prepared: Path, number: signal.Signals, words: tuple[str, ...]) -> None:
    """The exit code is that of the signal, the process of the check is gone, and the lock is free."""
    before, snapshots = contents(prepared), sorted(os.listdir(prepared / "pipeline" / "snapshots"))
    with start(prepared, *words) as process:
        while not (found := list(readers(process))):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < _MOST_SECONDS
    assert process.returncode == 128 + number, errors
    assert not psutil.wait_procs(found, timeout=10)[1]
    assert contents(prepared) == before
    assert sorted(os.listdir(prepared / "pipeline" / "snapshots")) == snapshots
    recovered = run(prepared, "release.recover")
    assert recovered.returncode == 0 and "CLEAN" in recovered.stdout + recovered.stderr
