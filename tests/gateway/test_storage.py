"""A gateway that cannot write says so in its health, and is ok again when it can."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.process.find import is_running
from release_tasks.gateway import connection
from release_tasks.gateway.errors import StoreError
from release_tasks.gateway.store import MessageStore, create_database
from tests.support.faults.disks import Disk
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.gateway import RunningGateway
from tests.support.processes import await_true

MESSAGE = {"channel": "telegram", "to": "1", "text": "x" * 4000}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 8 MiB for the gateway's folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", "gateway-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _storage(gateway: RunningGateway) -> tuple[int, str, str]:
    response = gateway.get("/health")
    data = response.json()["data"]
    return response.status_code, data["status"], "; ".join(data["problems"])


def _fill(path: Path, leave: int = 0) -> None:
    """Fill the filesystem of ``path`` except for ``leave`` bytes."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    os.truncate(path, path.stat().st_size - leave)


@pytest.mark.slow
@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("leave", [0, 512 * 1024])
def test_a_full_disk_degrades_health_until_it_has_room(
    disk: Path, start_gateway: Callable[..., Any], leave: int
) -> None:
    """Health names the folder and the reason, also just before the disk is full."""
    gateway = start_gateway(disk / "gateway")
    assert gateway.health()["storage"] == {"status": "ok"}
    _fill(disk / "filling", leave)
    assert gateway.post("/messages", json=MESSAGE).status_code == (202 if leave else 503)
    code, verdict, problems = _storage(gateway)
    assert (code, verdict) == (200, "degraded")
    assert problems == f"storage: {disk / 'gateway'}: No space left on device."
    (disk / "filling").unlink()
    assert _storage(gateway) == (200, "ok", "")
    assert gateway.post("/messages", json=MESSAGE).status_code == 202


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.slow
def test_a_full_disk_of_the_pairing_stores_degrades_health(
    disk: Path, start_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    """The folder is checked before it exists: the first request of a sender creates it."""
    gateway = start_gateway(tmp_path / "gateway", pairing=PairingConfig(credentials=disk / "credentials"))
    assert _storage(gateway) == (200, "ok", "")
    _fill(disk / "filling")
    assert _storage(gateway) == (200, "degraded", f"storage: {disk}: No space left on device.")


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.slow
def test_a_disk_that_fails_is_not_ok(tmp_path: Path, start_gateway: Callable[..., Any]) -> None:
    """Every write is an input/output error. What is still in memory decides whether health is degraded or failing."""
    (tmp_path / "disk").mkdir()
    disk = Disk("ext4", tmp_path / "image", tmp_path / "disk")
    disk.mount()
    try:
        gateway = start_gateway(disk.folder / "gateway")
        gateway.post("/messages", json=MESSAGE)
        disk.cut()
        assert gateway.post("/messages", json=MESSAGE).status_code == 503
        code, verdict, problems = _storage(gateway)
        assert verdict in ("degraded", "failing") and "storage: " in problems, (code, verdict, problems)
        os.kill(gateway.pid, signal.SIGTERM)
        await_true(lambda: not is_running(gateway.process))
    finally:
        disk.unmount()


@pytest.mark.slow
def test_a_failed_write_is_remembered_until_a_write_succeeds(gateway: RunningGateway) -> None:
    """A limit of the file size, as a quota: small files can be written, the next page of the database cannot."""
    os.kill(gateway.health()["dispatcher"]["pid"], signal.SIGKILL)  # its checkpoints would make room in the WAL
    hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (128 * 1024, hard))
    # Not after the first refusal: the page that health writes may still fit.
    reason = "storage: the last write failed: "
    await_true(lambda: gateway.post("/messages", json=MESSAGE).status_code == 503 and reason in _storage(gateway)[2])
    assert reason in _storage(gateway)[2]
    assert gateway.health()["storage"]["status"] == "error"
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert gateway.health()["storage"] == {"status": "ok"}


def test_a_lock_of_another_program_is_reported_after_the_first_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check waits for nothing: health answers while a restore holds the lock."""
    monkeypatch.setattr(connection, "_BUSY_MILLISECONDS", 10)
    path = tmp_path / "gateway.db"
    create_database(path)
    store = MessageStore(path)
    store.add_message("c", "1", "x")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.check_writes()
        with pytest.raises(StoreError, match="locked"):
            store.add_message("c", "1", "x")
        with pytest.raises(StoreError, match="the last write failed: database is locked"):
            store.check_writes()
        other.execute("ROLLBACK")
    store.check_writes()
    assert len(store.messages(10)) == 1
    store.close()


@pytest.mark.slow
def test_a_dispatcher_that_cannot_write_is_a_problem(gateway: RunningGateway) -> None:
    """It pauses with a reason, which was in the detail of its part only."""
    dispatcher = gateway.health()["dispatcher"]["pid"]
    hard = resource.prlimit(dispatcher, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(dispatcher, resource.RLIMIT_FSIZE, (1, hard))
    gateway.post("/messages", json=MESSAGE)
    problem = await_true(lambda: "dispatcher: delivery is paused: " in _storage(gateway)[2])
    assert problem
    resource.prlimit(dispatcher, resource.RLIMIT_FSIZE, (hard, hard))
    await_true(lambda: _storage(gateway) == (200, "ok", ""))
