"""Files of the pipeline folder that are no files, have no end, or stay locked: each command ends and says why."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from release_tasks.core import audit
from release_tasks.core.audit import AuditLog
from release_tasks.core.errors import StageError, describe_error
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project
from tests.support.rollback import roll_back

LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "r+b")
fcntl.{}(file, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(60)
"""
FILES = [
    "rollback-audit.log",
    "drill-audit.log",
    "rollback-state.json",
    "lock",
    "lock.json",
    "snapshots/aliases.json",
    "manifests/latest.json",
]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # a name has at most 108 bytes
    os.close(folder)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 30 << 30)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "folder": Path.mkdir,
    "link": link,
    "socket": unix_socket,
    "sparse": sparse,
}


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_LOCK_SECONDS", 0.2)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.log")


@pytest.fixture
def lock_file() -> Iterator[Callable[[Path, str], int]]:
    """Return a function that lets another process lock a file by ``flock`` or ``lockf``."""
    running: list[subprocess.Popen[bytes]] = []

    def lock(path: Path, how: str) -> int:
        process = subprocess.Popen([sys.executable, "-c", LOCK.format(how), str(path)], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        return process.pid

    yield lock
    for process in running:
        process.kill()
        process.communicate()


def results_of(project: Project) -> Iterator[str]:
    """Run the commands, and yield what each says; any other exception than an error for the operator is a failure."""
    commands: list[Callable[[], object]] = [
        lambda: roll_back(project, force=True).diagnostics,
        lambda: prepare(project.settings, passed_preflight(), "v2"),
    ]
    for command in commands:
        try:
            yield str(command())
        except (StageError, OSError) as error:
            yield describe_error(error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fifo", "socket", "sparse", "flock"])
def test_every_command_ends_beside_a_file_that_is_none(
    project: Project, kind: str, lock_file: Callable[[Path, str], int]
) -> None:
    """Each file in turn; afterwards, with the files back, a rollback restores the state."""
    prepare(project.settings, passed_preflight(), "v1")
    root = project.pipeline.root
    for name in FILES:
        path, kept = root / name, root / "kept"
        if not path.exists():
            path.touch()
        if kind in KINDS:
            os.rename(path, kept)
            KINDS[kind](path)
            assert all(results_of(project))
            subprocess.run(["rm", "-rf", path], check=True)
            os.rename(kept, path)
        else:
            pid = lock_file(path, kind)
            assert all(results_of(project))
            os.kill(pid, signal.SIGKILL)
        if not path.exists() or not path.stat().st_size:
            path.unlink(missing_ok=True)
    if kind in KINDS:
        project.damage_rows()
        assert roll_back(project, force=True).status == "restored"


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_that_is_no_log_is_named(log: AuditLog, kind: str) -> None:
    """Each call ends at once, with an error that names the log and says what to do."""
    KINDS[kind](log.path)
    for call in (log.verify, log.anchor, lambda: log.append("a", status="ok")):
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.filename == str(log.path)
        assert "ove it away" in describe_error(raised.value)


def test_a_log_that_stays_locked_names_the_holder(log: AuditLog, lock_file: Callable[[Path, str], int]) -> None:
    """The second call waits less: it may be the record of the end of the first."""
    log.append("a", status="ok")
    pid = lock_file(log.path, "flock")
    for call in (lambda: log.append("b", status="ok"), log.verify):
        with pytest.raises(OSError, match=f"It is locked by process {pid} ") as raised:
            call()
        assert raised.value.errno == errno.EWOULDBLOCK
    os.kill(pid, signal.SIGKILL)
    assert log.verify().intact


def test_a_lock_of_another_kind_stops_no_command(log: AuditLog, lock_file: Callable[[Path, str], int]) -> None:
    """A POSIX lock does not count."""
    log.append("a", status="ok")
    lock_file(log.path, "lockf")
    log.append("b", status="ok")
    assert log.verify().intact
