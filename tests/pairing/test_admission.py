"""Admission is answered from memory, and never with what the file does not say any more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.lock import FileLock
from release_tasks.pairing import store as pairing_store
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.pairing.store import StoreUnusable, file_version

TELEGRAM = Channel.TELEGRAM


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every store file that was read, in order."""
    found: list[Path] = []
    read = pairing_store.read_document

    def counted(path: Path) -> dict[str, object]:
        found.append(path)
        return read(path)

    monkeypatch.setattr(pairing_store, "read_document", counted)
    return found


def approvals(credentials: Path, *senders: str) -> Path:
    """Write the approvals as another program would: over the same file."""
    credentials.mkdir(parents=True, exist_ok=True)
    path = credentials / "telegram-allowFrom.json"
    path.write_text(json.dumps({"senderIds": senders}))
    return path


def settle(path: Path) -> None:
    """Let the file be old enough that any change shows in its times."""
    version = file_version(path)
    while version is None or not version.is_stable():
        time.sleep(0.005)


def test_a_settled_file_is_read_once(credentials: Path, readings: list[Path]) -> None:
    """A thousand messages of senders and strangers, one reading."""
    settle(approvals(credentials, "4711", "4712"))
    pairing = Pairing(PairingConfig(credentials=credentials))
    for number in range(500):
        assert pairing.is_approved(TELEGRAM, "4711")
        assert not pairing.is_approved(TELEGRAM, str(9000 + number))
    assert len(readings) == 1


@pytest.mark.slow
def test_every_decision_of_another_process_counts_at_once(credentials: Path) -> None:
    """A hundred approvals and revocations as fast as they go, each seen by the next message."""
    service, shell = (Pairing(PairingConfig(credentials=credentials)) for _ in range(2))
    for number in range(100):
        sender = str(4711 + number % 3)
        request = shell.request(TELEGRAM, sender).request
        assert request is not None
        shell.approve(TELEGRAM, request.code)
        assert service.is_approved(TELEGRAM, sender)
        shell.revoke(TELEGRAM, sender)
        assert not service.is_approved(TELEGRAM, sender)


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.slow
def test_a_change_over_the_same_file_counts_at_once(credentials: Path, pause: bool) -> None:
    """Also one of equal length within the same tick of the clock, on the same inode."""
    pairing = Pairing(PairingConfig(credentials=credentials))
    for _ in range(50):
        path = approvals(credentials, "4711")
        if pause:
            settle(path)
        assert pairing.is_approved(TELEGRAM, "4711")
        approvals(credentials, "4712")
        assert not pairing.is_approved(TELEGRAM, "4711")
        assert pairing.is_approved(TELEGRAM, "4712")


def test_times_that_somebody_set_back_hide_no_change(credentials: Path) -> None:
    """``touch`` sets the time of the last change of content; that of the inode cannot be set."""
    path = approvals(credentials, "4711")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    settle(path)
    pairing = Pairing(PairingConfig(credentials=credentials))
    assert pairing.is_approved(TELEGRAM, "4711")
    approvals(credentials, "4712")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert not pairing.is_approved(TELEGRAM, "4711")


@pytest.mark.parametrize("how", ["removed", "damaged", "replaced by a folder"])
def test_what_was_in_memory_does_not_outlive_the_file(credentials: Path, how: str) -> None:
    """Nobody is admitted by a file that is not there or cannot be read, whatever it said before."""
    path = approvals(credentials, "4711")
    settle(path)
    pairing = Pairing(PairingConfig(credentials=credentials))
    assert pairing.is_approved(TELEGRAM, "4711")
    kept = path.read_bytes()
    path.unlink()
    if how == "removed":
        assert not pairing.is_approved(TELEGRAM, "4711")
    else:
        path.write_bytes(kept[:-1]) if how == "damaged" else path.mkdir()
        with pytest.raises(StoreUnusable):
            pairing.is_approved(TELEGRAM, "4711")


def test_whoever_writes_and_writes_keeps_nobody_from_the_lock(
    credentials: Path, make_pairing: Callable[..., Pairing]
) -> None:
    """A stranger who waits already, or who comes when the channel is full, is answered while the lock is taken."""
    pairing = make_pairing(max_pending=1)
    code = pairing.request(TELEGRAM, "1").request
    lock = FileLock(credentials / "telegram-pairing.lock")
    assert lock.acquire()
    try:
        again = pairing.request(TELEGRAM, "1")
        assert (again.status, again.request) == ("repeated", code)
        assert pairing.request(TELEGRAM, "2").status == "full"
    finally:
        lock.release()


def test_looking_up_decides_nothing(make_pairing: Callable[..., Pairing], credentials: Path) -> None:
    """Neither for a request nor for an approval; no file changes."""
    pairing = make_pairing()
    request = pairing.request(TELEGRAM, "1").request
    assert request is not None
    before = {path.name: path.read_bytes() for path in credentials.iterdir()}
    assert pairing.lookup(TELEGRAM, request.code.lower()) == "1"
    for wrong in ("AAAA2222", "", "*"):
        with pytest.raises(Exception, match=r"inv pairing\.list telegram"):
            pairing.lookup(TELEGRAM, wrong)
    with pytest.raises(Exception, match="1 is not approved on telegram"):
        pairing.lookup_approved(TELEGRAM, "1")
    assert {path.name: path.read_bytes() for path in credentials.iterdir()} == before
    pairing.approve(TELEGRAM, request.code)
    assert pairing.lookup_approved(TELEGRAM, "1") == "1"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can act for another user")
def test_what_root_decides_belongs_to_the_service(credentials: Path, make_pairing: Callable[..., Pairing]) -> None:
    """An approval typed as root leaves every file readable for the user whom the folder belongs to."""
    pairing = make_pairing()
    pairing.request(TELEGRAM, "1")
    for path in (credentials, *credentials.iterdir()):
        os.chown(path, 4711, 4712)
    waiting = pairing.pending(TELEGRAM)[0]
    pairing.approve(TELEGRAM, waiting.code)
    found = {
        path.name: (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777)
        for path in credentials.iterdir()
    }
    assert set(found.values()) == {(4711, 4712, 0o600)}
    assert "telegram-allowFrom.json" in found
