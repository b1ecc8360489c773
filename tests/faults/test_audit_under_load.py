"""The audit log with many writers at the same time, and its name after a power cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.core.audit import AuditLog

APPENDER = """
import sys
from pathlib import Path
from release_tasks.core.audit import AuditLog
log, name, count = AuditLog(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
sys.stdin.read(1)
for number in range(count):
    log.append("test", status="ok", detail=f"{name}-{number}")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_processes_append_ten_thousand_events_to_one_chain(
    tmp_path: Path, report_points: Callable[[int], None]
) -> None:
    """No event is lost or doubled, and the events of each process keep their order."""
    log = AuditLog(tmp_path / "pipeline" / "rollback-audit.log")
    command = [sys.executable, "-c", APPENDER, str(log.path)]
    processes = [
        subprocess.Popen([*command, f"p{number}", "1250"], stdin=subprocess.PIPE, text=True) for number in range(8)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait(timeout=500) for process in processes] == [0] * 8
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    verdict = log.verify()
    assert verdict.intact and not verdict.notes
    assert [event["seq"] for event in verdict.events] == list(range(1, 10_001))
    for number in range(8):
        ours = [event["detail"] for event in verdict.events if event["detail"].startswith(f"p{number}-")]
        assert ours == [f"p{number}-{count}" for count in range(1250)]
    report_points(len(verdict.events))


def test_log_that_is_a_dangling_link_is_an_error(tmp_path: Path) -> None:
    """A log that cannot be read is not verified as an empty log."""
    log = AuditLog(tmp_path / "rollback-audit.log")
    log.path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError):
        log.verify()


@pytest.mark.parametrize("exists", [False, True], ids=["new", "left empty by a killed process"])
def test_name_of_the_log_is_flushed_before_its_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """The process that created the file may have been killed before it flushed the folder."""
    log = AuditLog(tmp_path / "rollback-audit.log")
    if exists:
        log.path.touch()
    order: list[str] = []
    fsync, write = os.fsync, os.write

    def record_fsync(fd: int) -> None:
        order.append("folder" if os.path.sameopenfile(fd, folder) else "record flushed")
        fsync(fd)

    def record_write(fd: int, data: bytes) -> int:
        order.append("record")
        return write(fd, data)

    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "write", record_write)
        log.append("first", status="ok")
        assert order == ["folder", "record", "record flushed"]
        del order[:]
        log.append("second", status="ok")
        assert order == ["record", "record flushed"]
    finally:
        os.close(folder)
