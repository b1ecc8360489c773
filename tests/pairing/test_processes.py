"""Several processes on one store, and processes killed during a change."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageFailed
from release_tasks.core.interrupt import interruptible
from release_tasks.core.lock import FileLock
from release_tasks.pairing import store as store_module
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing

TELEGRAM = Channel.TELEGRAM

SETUP = """
import sys
from pathlib import Path
from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
pairing = Pairing(PairingConfig(credentials=Path(sys.argv[1]), max_pending=1000))
channel = Channel.TELEGRAM
"""

# Requests for its own senders; approves two of three, rejects the third, and revokes one of the approved.
OPERATOR = (
    SETUP
    + """
first, count = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for sender in range(first, first + count):
    code = pairing.request(channel, str(sender)).request.code
    if sender % 3 == 2:
        pairing.reject(channel, code)
        continue
    pairing.approve(channel, code)
    if sender % 3 == 1:
        pairing.revoke(channel, str(sender))
"""
)

# Requests once; the cap is three.
STRANGER = (
    SETUP.replace("1000", "3")
    + """
print("ready", flush=True)
sys.stdin.readline()
print(pairing.request(channel, sys.argv[2]).status)
"""
)

# Requests, approves and sometimes revokes until it is killed; prints each action before it starts and after it ends.
ENDLESS = (
    SETUP
    + """
for sender in range(int(sys.argv[2]), 10**9):
    code = pairing.request(channel, str(sender)).request.code
    print("code", sender, code, flush=True)
    pairing.approve(channel, code)
    print("approved", sender, flush=True)
    if sender % 3 == 0:
        print("revoking", sender, flush=True)
        pairing.revoke(channel, str(sender))
        print("revoked", sender, flush=True)
"""
)


@pytest.fixture
def pairing(credentials: Path) -> Pairing:
    """Return the pairing that the processes work on, with the clocks of this machine."""
    return Pairing(PairingConfig(credentials=credentials, max_pending=1000))


@pytest.fixture
def start(credentials: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts processes on the store: ``start(script, 1, 2)``; they are ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(credentials), *map(str, arguments)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def leftovers(credentials: Path) -> list[str]:
    known = {"telegram-pairing.json", "telegram-allowFrom.json", "telegram-pairing.lock", "pairing-audit.log"}
    return sorted({path.name for path in credentials.iterdir()} - known - {".gitignore"})


@pytest.mark.slow
def test_eight_concurrent_processes_lose_no_decision(
    pairing: Pairing, credentials: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Approved senders are admitted, rejected and revoked ones are not, and each decision is one event of one chain."""
    count = 12
    processes = [start(OPERATOR, 1000 + index * count, count) for index in range(8)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    watched = Watcher(pairing)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.wait(timeout=100)
    watched.stop()
    assert [process.returncode for process in processes] == [0] * 8
    everybody = range(1000, 1000 + 8 * count)
    assert pairing.approved(TELEGRAM) == sorted(str(sender) for sender in everybody if sender % 3 == 0)
    assert pairing.pending(TELEGRAM) == []
    verdict = pairing.audit.verify()
    assert verdict.intact and not verdict.notes
    reported = Counter((event["event"], event["senderId"]) for event in verdict.events)
    expected = Counter(("pairing.requested", str(sender)) for sender in everybody)
    for sender in everybody:
        if sender % 3 == 2:
            expected["pairing.rejected", str(sender)] += 1
        else:
            expected["pairing.approved", str(sender)] += 1
            expected["pairing.revoked", str(sender)] += sender % 3 == 1
    assert reported == +expected
    assert leftovers(credentials) == []


class Watcher:
    """A gateway that reads without a lock: it never reads a partial store, and never admits an unknown sender."""

    def __init__(self, pairing: Pairing) -> None:
        self.problems: list[BaseException] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pairing,))
        self._thread.start()

    def _watch(self, pairing: Pairing) -> None:
        try:
            while not self._is_over.is_set():
                assert not pairing.is_approved(TELEGRAM, "999")
                assert all(int(sender) % 3 != 2 for sender in pairing.approved(TELEGRAM))
                pairing.pending(TELEGRAM)
        except BaseException as problem:
            self.problems.append(problem)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(timeout=30)
        assert self.problems == []


@pytest.mark.slow
def test_the_cap_holds_across_processes(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Eight unknown senders at the same moment: three get a code, five get nothing."""
    processes = [start(STRANGER, number) for number in range(1, 9)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = Counter(process.stdout.readline().strip() for process in processes if process.stdout is not None)
    assert answers == {"created": 3, "full": 5}


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_decision(
    pairing: Pairing, credentials: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """After SIGKILL, a finished action is stored; an unfinished one is complete or can be repeated."""
    chance = random.Random(11)
    for number in range(25):
        process = start(ENDLESS, 1000 * (number + 1))
        assert process.stdout is not None
        reported = [process.stdout.readline()]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        reported += process.stdout.read().splitlines(keepends=True)
        process.wait(timeout=10)
        assert process.returncode == -signal.SIGKILL
        check_after_kill(
            pairing, [line.split() for line in reported if line.endswith("\n")]
        )  # the kill may truncate a line
        assert pairing.audit.verify().intact
        assert leftovers(credentials) == []


def check_after_kill(pairing: Pairing, printed: list[list[str]]) -> None:
    """Compare the output of the killed process with the store, then finish its last action."""
    codes: dict[str, str] = {}
    approved: set[str] = set()
    revoking = ""
    for what, sender, *rest in printed:
        if what == "code":
            codes[sender] = rest[0]
        elif what == "approved":
            approved.add(sender)
        elif what == "revoking":
            revoking = sender
        else:
            approved.remove(sender)
            revoking = ""
            assert not pairing.is_approved(TELEGRAM, sender)
    for sender in approved - {revoking}:
        assert pairing.is_approved(TELEGRAM, sender), printed
    last = printed[-1]
    if last[0] == "code":
        was_approved = pairing.is_approved(TELEGRAM, last[1])
        try:
            assert pairing.approve(TELEGRAM, last[2]).was_approved == was_approved
        except StageFailed:
            assert was_approved, "the grant and the code are both lost"
        assert pairing.is_approved(TELEGRAM, last[1])
    if revoking:
        if pairing.is_approved(TELEGRAM, revoking):
            pairing.revoke(TELEGRAM, revoking)
        assert not pairing.is_approved(TELEGRAM, revoking)
        revocations = [e for e in pairing.audit.verify().events if e["event"] == "pairing.revoked"]
        assert revoking in {event["senderId"] for event in revocations}
    # The next change removes leftovers of the kill; a sender whose request was killed may request again.
    for request in pairing.pending(TELEGRAM):
        pairing.reject(TELEGRAM, request.code)
    assert pairing.request(TELEGRAM, "1").request is not None


def test_a_store_locked_by_another_process_ends_with_75(
    pairing: Pairing, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, and reading does not wait."""
    monkeypatch.setattr(store_module, "WAIT_SECONDS", 0.2)
    lock = FileLock(credentials / "telegram-pairing.lock")
    assert lock.acquire(1)
    try:
        with pytest.raises(LockHeld, match=r"telegram-pairing\.lock has been locked by another process") as held:
            pairing.request(TELEGRAM, "111")
        assert held.value.exit_code is ExitCode.LOCKED
        assert not pairing.is_approved(TELEGRAM, "111")
        assert pairing.request(Channel.WHATSAPP, "15551234567").status == "created"
    finally:
        lock.release()
    assert pairing.request(TELEGRAM, "111").status == "created"


def test_a_signal_during_a_change_waits_for_its_end(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch, stored: Callable[[str], Any]
) -> None:
    """Ctrl-C arrives after the audit event: the approval is completed before the signal takes effect."""
    request = pairing.request(TELEGRAM, "111").request
    assert request is not None
    append = pairing.audit.append

    def interrupted_append(*args: Any, **options: Any) -> Any:
        anchor = append(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return anchor

    monkeypatch.setattr(pairing.audit, "append", interrupted_append)
    with pytest.raises(Interrupted) as interrupted, interruptible():
        pairing.approve(TELEGRAM, request.code)
    assert interrupted.value.exit_code is ExitCode.SIGINT
    assert stored("telegram-allowFrom.json") == {"senderIds": ["111"]}
    assert stored("telegram-pairing.json") == {"requests": []}


def test_leftovers_of_a_killed_write_are_removed_by_the_next_change(
    pairing: Pairing, put: Callable[..., Path], credentials: Path
) -> None:
    """Only temporary files of this channel are removed; those of the other channel may be in use."""
    put(".telegram-pairing.json.abc123.tmp", {})
    put(".telegram-allowFrom.json.abc123.tmp", {})
    stored = [put(".whatsapp-pairing.json.abc123.tmp", {}), put("telegram-pairing.json.42.tmp", {})]
    assert pairing.pending(TELEGRAM) == []
    pairing.request(TELEGRAM, "111")
    assert leftovers(credentials) == sorted(path.name for path in stored)
    assert json.loads(stored[0].read_text()) == {}
