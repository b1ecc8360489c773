"""Admission is answered from memory, and every change of the file counts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core import canonical
from release_tasks.core.lock import FileLock
from release_tasks.core.owned import ForeignFolder
from release_tasks.pairing import store as pairing_store
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.pairing.store import StoreUnusable, file_version

TELEGRAM = Channel.TELEGRAM


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the store files that were read, in order."""
    found: list[Path] = []
    read = canonical.read_document

    def counted(path: Path) -> dict[str, object]:
        found.append(path)
        return read(path)

    monkeypatch.setattr(pairing_store, "read_document", counted)
    return found


def approvals(credentials: Path, *senders: str) -> Path:
    """Write the approvals as another program would: into the same file."""
    credentials.mkdir(parents=True, exist_ok=True)
    path = credentials / "telegram-allowFrom.json"
    path.write_text(json.dumps({"senderIds": senders}))
    return path


def set_old_mtime(path: Path) -> None:
    """Make the file old enough that any later change shows in its times."""
    version = file_version(path)
    while version is None or not version.is_stable():
        time.sleep(0.005)


def test_an_old_file_is_read_once(credentials: Path, readings: list[Path]) -> None:
    """A thousand messages of approved and unknown senders cause one read."""
    set_old_mtime(approvals(credentials, "4711", "4712"))
    pairing = Pairing(PairingConfig(credentials=credentials))
    for number in range(500):
        assert pairing.is_approved(TELEGRAM, "4711")
        assert not pairing.is_approved(TELEGRAM, str(9000 + number))
    assert len(readings) == 1


@pytest.mark.slow
def test_decisions_of_another_process_count_immediately(credentials: Path) -> None:
    """The next message sees each of a hundred fast approvals and revocations."""
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
def test_a_change_in_place_counts_immediately(credentials: Path, pause: bool) -> None:
    """This includes a change of equal length within one tick of the clock, on the same inode."""
    pairing = Pairing(PairingConfig(credentials=credentials))
    for _ in range(50):
        path = approvals(credentials, "4711")
        if pause:
            set_old_mtime(path)
        assert pairing.is_approved(TELEGRAM, "4711")
        approvals(credentials, "4712")
        assert not pairing.is_approved(TELEGRAM, "4711")
        assert pairing.is_approved(TELEGRAM, "4712")


def test_an_mtime_set_back_does_not_hide_a_change(credentials: Path) -> None:
    """``touch`` sets the time of the last change of the content, and not that of the inode."""
    path = approvals(credentials, "4711")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    set_old_mtime(path)
    pairing = Pairing(PairingConfig(credentials=credentials))
    assert pairing.is_approved(TELEGRAM, "4711")
    approvals(credentials, "4712")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert not pairing.is_approved(TELEGRAM, "4711")


@pytest.mark.parametrize("how", ["removed", "damaged", "replaced by a folder"])
def test_a_missing_or_unreadable_file_admits_no_sender(credentials: Path, how: str) -> None:
    """The content in memory does not count when the file is missing or cannot be read."""
    path = approvals(credentials, "4711")
    set_old_mtime(path)
    pairing = Pairing(PairingConfig(credentials=credentials))
    assert pairing.is_approved(TELEGRAM, "4711")
    stored = path.read_bytes()
    path.unlink()
    if how == "removed":
        assert not pairing.is_approved(TELEGRAM, "4711")
    else:
        path.write_bytes(stored[:-1]) if how == "damaged" else path.mkdir()
        with pytest.raises(StoreUnusable):
            pairing.is_approved(TELEGRAM, "4711")


def test_a_busy_writer_does_not_delay_other_senders(credentials: Path, make_pairing: Callable[..., Pairing]) -> None:
    """A sender who has a request, or who comes when the channel is full, is answered while the lock is held."""
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


def test_a_lookup_changes_nothing(make_pairing: Callable[..., Pairing], credentials: Path) -> None:
    """A lookup of a request or an approval changes no file."""
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
def test_root_decides_nothing_in_a_folder_of_the_service(
    credentials: Path, make_pairing: Callable[..., Pairing]
) -> None:
    """Root would write and change modes where the service has put links. The message names the owner."""
    pairing = make_pairing()
    pairing.request(TELEGRAM, "1")
    waiting = pairing.pending(TELEGRAM)[0]
    for path in (credentials, *credentials.iterdir()):
        os.chown(path, 4711, 4712)
    before = {path.name: path.read_bytes() for path in credentials.iterdir()}
    for attempt in (lambda: pairing.approve(TELEGRAM, waiting.code), make_pairing):
        with pytest.raises(ForeignFolder, match=r"credentials belongs to uid 4711\..*sudo -u '#4711' inv"):
            attempt()
    assert {path.name: path.read_bytes() for path in credentials.iterdir()} == before
