"""The audit log with concurrent, killed and interrupted writers."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from release_tasks.core.audit import AuditLog

APPENDER = """
import sys
from pathlib import Path
from release_tasks.core.audit import AuditLog
log, name, count = AuditLog(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(count):
    log.append("test", status="ok", detail=f"{name}-{number}")
"""


def start_appender(log: AuditLog, name: str, count: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(log.path), name, str(count)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


@pytest.mark.slow
def test_concurrent_appends_make_one_chain(log: AuditLog) -> None:
    """Eight processes append: no event is lost, and the chain is intact."""
    processes = [start_appender(log, f"p{number}", 100) for number in range(8)]
    assert [process.wait(timeout=100) for process in processes] == [0] * 8
    verdict = log.verify()
    assert verdict.intact and not verdict.notes
    expected = {f"p{number}-{count}" for number in range(8) for count in range(100)}
    assert sorted(event["detail"] for event in verdict.events) == sorted(expected)


@pytest.mark.slow
def test_killed_writer_leaves_the_log_intact(log: AuditLog) -> None:
    """After a SIGKILL at any moment of an append the chain continues."""
    chance = random.Random(7)
    for number in range(5):
        process = start_appender(log, f"p{number}", 1_000_000)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0.005, 0.04))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        log.append("after", status="ok")
        assert log.verify().intact
    assert len(log.verify().events) > 10


def test_write_cut_by_a_full_disk_is_reported_and_set_aside(filled: AuditLog) -> None:
    """The incomplete append raises, and the next append continues the chain."""

    def limit_file_size() -> None:
        limit = filled.path.stat().st_size + 40
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", APPENDER, str(filled.path), "x", "1"],
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "only 40 of" in done.stderr
    assert filled.append("after", status="ok").seq == 6
    verdict = filled.verify()
    assert verdict.intact
    assert len(verdict.notes) == 1


@pytest.fixture
def append_only() -> Iterator[Callable[[Path], None]]:
    """Return a function that sets the append-only attribute, which is removed after the test."""
    if os.geteuid() != 0 or shutil.which("chattr") is None:
        pytest.skip("NOT TESTED: the append-only attribute needs root and chattr")
    made: list[Path] = []

    def set_attribute(path: Path) -> None:
        done = subprocess.run(["chattr", "+a", str(path)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: this filesystem has no append-only attribute: {done.stderr.strip()}")
        made.append(path)

    yield set_attribute
    for path in made:
        subprocess.run(["chattr", "-a", str(path)], check=True)


@pytest.mark.root
def test_log_works_with_the_append_only_attribute(filled: AuditLog, append_only: Callable[[Path], None]) -> None:
    """The file is never rewritten, also after a torn line."""
    append_only(filled.path)
    with pytest.raises(PermissionError):
        filled.path.write_bytes(b"")
    assert filled.append("under +a", status="ok").seq == 5
    with filled.path.open("ab") as file:
        file.write(b'{"torn":')
    assert filled.append("after", status="ok").seq == 7
    verdict = filled.verify()
    assert verdict.intact
    assert len(verdict.notes) == 1
