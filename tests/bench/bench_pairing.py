"""Admissions a second with 100,000 approved senders: alone, and while processes approve and revoke.

    python -m tests.bench.bench_pairing [--senders 100000] [--seconds 10] [--writers 4] [--runs 5]

The peer reads the file at each message and searches the sender in it, as a service without a cache does. Exits with 1
when a sender was wrongly admitted, wrongly blocked or lost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, MutableSequence
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing

CHANNEL = Channel.WHATSAPP
FIRST = 15_550_000_000
OWN = 20  # senders that each writer approves and revokes in turn
# The state of each of these senders is counted up: 0 blocked, 1 changing, 2 approved, 3 changing, 4 blocked, ...


def pairing_in(folder: Path) -> Pairing:
    return Pairing(PairingConfig(credentials=folder, max_pending=64))


def write_store(folder: Path, senders: int) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    document = {"senderIds": [str(FIRST + number) for number in range(senders)]}
    (folder / f"{CHANNEL.value}-allowFrom.json").write_text(json.dumps(document))


def per_second(decide: Callable[[str], bool], senders: int, seconds: float) -> float:
    """Ask for approved and unknown senders in turn for ``seconds``; every answer must be right."""
    chooser, done, end = random.Random(1), 0, time.perf_counter() + seconds
    started = time.perf_counter()
    while time.perf_counter() < end:
        number = chooser.randrange(senders)
        if not decide(str(FIRST + number)) or decide(str(FIRST + senders * 2 + number)):
            raise SystemExit("wrong: an approved sender was blocked or an unknown sender admitted")
        done += 2
    return done / (time.perf_counter() - started)


def read_each_time(path: Path) -> Callable[[str], bool]:
    return lambda sender: sender in json.loads(path.read_text())["senderIds"]


def write(
    folder: Path, writer: int, states: MutableSequence[int], is_over: Synchronized[int], changes: Synchronized[int]
) -> None:
    """Approve and revoke the writer's own senders one after the other, until ``is_over``."""
    pairing, number = pairing_in(folder), 0
    while not is_over.value:
        index = writer * OWN + number % OWN
        sender = str(FIRST * 4 + index)
        request = pairing.request(CHANNEL, sender).request
        assert request is not None
        for change in (partial(pairing.approve, CHANNEL, request.code), partial(pairing.revoke, CHANNEL, sender)):
            states[index] += 1
            change()
            states[index] += 1
            is_approved = states[index] % 4 == 2
            assert pairing.is_approved(CHANNEL, sender) is is_approved, "a writer does not see its own change"
            with changes.get_lock():
                changes.value += 1
        number += 1


def under_writers(folder: Path, senders: int, seconds: float, writers: int) -> tuple[float, int, int, int]:
    """Return admissions a second, the number of changes, of checked answers about changing senders, and of errors."""
    states = multiprocessing.Array("q", writers * OWN, lock=False)
    is_over, changes = multiprocessing.Value("b", 0), multiprocessing.Value("q", 0)
    processes = [
        multiprocessing.Process(target=write, args=(folder, number, states, is_over, changes))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    pairing, chooser, done, checked, wrong = pairing_in(folder), random.Random(2), 0, 0, 0
    while changes.value < writers:
        time.sleep(0.01)
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        number = chooser.randrange(senders)
        wrong += not pairing.is_approved(CHANNEL, str(FIRST + number))
        wrong += pairing.is_approved(CHANNEL, str(FIRST + senders * 2 + number))
        index = chooser.randrange(writers * OWN)
        before = states[index]
        answer = pairing.is_approved(CHANNEL, str(FIRST * 4 + index))
        if states[index] == before and before % 2 == 0:  # no change during the question
            checked += 1
            wrong += answer is not (before % 4 == 2)
        done += 3
    rate = done / (time.perf_counter() - started)
    is_over.value = 1
    for process in processes:
        process.join()
        wrong += process.exitcode != 0
    left = pairing.approved(CHANNEL)
    wrong += left != sorted(str(FIRST + number) for number in range(senders))
    wrong += bool(pairing.pending(CHANNEL)) + (not pairing.audit.verify().intact)
    return rate, changes.value, checked, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    alone, peer, busy, changes, checked, wrong = [], [], [], 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for run in range(options.runs):
            folder = Path(scratch, str(run))
            write_store(folder, options.senders)
            path = folder / f"{CHANNEL.value}-allowFrom.json"
            peer.append(per_second(read_each_time(path), options.senders, options.seconds / 5))
            pairing = pairing_in(folder)
            alone.append(per_second(partial(pairing.is_approved, CHANNEL), options.senders, options.seconds / 5))
            found = under_writers(folder, options.senders, options.seconds, options.writers)
            busy.append(found[0])
            changes, checked, wrong = changes + found[1], checked + found[2], wrong + found[3]
    base = statistics.median(peer)
    print(f"{options.senders} approved senders, medians of {options.runs} runs")
    for name, rates in (("reading the file at each message", peer), ("release-tasks, alone", alone),
                        (f"release-tasks, with {options.writers} writing", busy)):  # fmt: skip
        rate = statistics.median(rates)
        print(f"{name}: {rate:,.0f} a second ({min(rates):,.0f} to {max(rates):,.0f}), ratio {rate / base:,.0f}")
    print(f"{changes} approvals and revocations, {checked} answers about changing senders, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
