"""A soak test: releases and rollbacks one after the other while a process writes to the database.

    python -m tests.bench.bench_soak [--minutes 10] [--commits 200] [--every 10] [--megabytes 8] [--folder DIR]

A writer process moves money between accounts, so that the sum never changes, and records every transfer in a ledger.
Every ``every`` seconds this process prepares a release or rolls back; a seeded generator chooses. After each cycle it
checks that the ledger explains the balances, that all files have the live generation, that the audit chain is intact,
that every snapshot verifies, that there are no leftovers, and that retention is applied. Prints a line for each cycle
and a table at the end. Exits with 1 when a check fails, or when memory, open files or disk use grow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_all
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.writer import start_writer_process

ACCOUNTS, BALANCE = 200, 1000
RETENTION = 3
# How much more the later cycles may need than the first ones, for caches and memory arenas of the interpreter.
MEMORY_SLACK_MIB = 16
FILES_SLACK = 2


class Soak:
    """The project, the writer, and the problems found."""

    def __init__(self, folder: Path, megabytes: int, commits: float, seed: int) -> None:
        self.folder = folder
        self.database = folder / "state" / "app.db"
        self.megabytes, self.commits = megabytes, commits
        self.choose = random.Random(seed)
        self.generation = 0
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {}
        self.memory: list[int] = []
        self.files: list[int] = []
        self.disk: list[int] = []
        self._make_state()
        section = {
            "root": "pipeline",
            "app": {"name": "soak", "version": "1"},
            "gates": {"always": {"command": "true"}},
            "assets": {
                "database": {"sqlite": "state/app.db"},
                "identity": {"directory": "state/identity"},
                "config": {"file": "state/config.json"},
            },
            "retention": RETENTION,
        }
        self.settings = load_settings({"release": section}, folder)
        self.pipeline = Pipeline(self.settings.release.root)

    def _make_state(self) -> None:
        self.database.parent.mkdir(parents=True)
        (self.database.parent / "identity").mkdir()
        database = sqlite3.connect(self.database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)")
        database.execute("CREATE TABLE ledger(id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER)")
        database.execute("CREATE TABLE generation(number INTEGER)")
        database.execute("CREATE TABLE ballast(id INTEGER PRIMARY KEY, body BLOB)")
        database.executemany("INSERT INTO accounts VALUES (?, ?)", [(i, BALANCE) for i in range(ACCOUNTS)])
        database.execute("INSERT INTO generation VALUES (0)")
        rows = [(os.urandom(4000),) for _ in range(self.megabytes * 250)]
        database.executemany("INSERT INTO ballast(body) VALUES (?)", rows)
        database.commit()
        database.close()
        self._mark_files(0)

    def _mark_files(self, generation: int) -> None:
        for path in (self.database.parent / "identity" / "id.json", self.database.parent / "config.json"):
            path.write_text(json.dumps({"generation": generation}))

    def start_writer(self) -> subprocess.Popen[str]:
        return start_writer_process(self.database, "--rate", str(self.commits), "--accounts", str(ACCOUNTS))

    def deploy(self) -> None:
        """Change the generation of every asset, as a deployment does."""
        self.generation = self.choose.randrange(1, 1 << 30)
        database = sqlite3.connect(self.database, timeout=60)
        database.execute("UPDATE generation SET number = ?", (self.generation,))
        database.commit()
        database.close()
        self._mark_files(self.generation)

    def act(self, cycle: int) -> str:
        """Prepare a release and deploy after it, or roll back to one of the snapshots."""
        if cycle == 0 or self.choose.random() < 0.5:
            result = self._prepare(f"r{cycle}")
            self.deploy()
            return result
        snapshots = self.pipeline.catalogue.published()[0]
        target = self.choose.choice([None, *(snapshot.snapshot_id for snapshot in snapshots)])
        return self._roll_back(target)

    def _prepare(self, release_id: str) -> str:
        manifest = prepare(self.settings, passed_preflight(), release_id)
        if manifest.status != "ready":
            self.problems.append(f"{release_id} is blocked: {manifest.diagnostics}")
        return f"prepare {manifest.status}"

    def _roll_back(self, snapshot_id: str | None) -> str:
        outcome = rollback(self.settings, RollbackRequest(snapshot_id=snapshot_id, force=True))
        if outcome.status != "restored":
            self.problems.append(f"rollback to {snapshot_id}: {outcome.diagnostics}")
        folder = self.pipeline.catalogue.path(str(outcome.snapshot_id)) / "assets" / "config" / "config.json"
        self.generation = json.loads(folder.read_text())["generation"]
        return f"rollback {outcome.status}"

    def check(self, cycle: int) -> None:
        """Record every problem."""
        found = self._wrong_rows() + self._wrong_pipeline()
        for path in (self.database.parent / "identity" / "id.json", self.database.parent / "config.json"):
            number = json.loads(path.read_text())["generation"]
            if number != self.generation:
                found.append(f"{path.name} is of generation {number} instead of {self.generation}")
        self.problems += [f"cycle {cycle}: {problem}" for problem in found]

    def _wrong_rows(self) -> list[str]:
        database = sqlite3.connect(self.database, timeout=60, isolation_level=None)
        try:
            database.execute("BEGIN")
            balances = dict(database.execute("SELECT id, balance FROM accounts"))
            ledger = database.execute("SELECT id, a, b, amount FROM ledger ORDER BY id").fetchall()
            numbers = [row[0] for row in database.execute("SELECT number FROM generation")]
        finally:
            database.close()
        found = []
        if sum(balances.values()) != ACCOUNTS * BALANCE:
            found.append(f"the sum is {sum(balances.values())}")
        expected = dict.fromkeys(range(ACCOUNTS), BALANCE)
        for _, a, b, amount in ledger:
            expected[a] -= amount
            expected[b] += amount
        if expected != balances:
            found.append("the ledger does not explain the balances")
        if [row[0] for row in ledger] != list(range(1, len(ledger) + 1)):
            found.append("the ledger has gaps")
        if numbers != [self.generation]:
            found.append(f"the database is of generation {numbers} instead of {self.generation}")
        return found

    def _wrong_pipeline(self) -> list[str]:
        found = []
        verdict = self.pipeline.audit.verify(self.pipeline.anchors())
        if not verdict.intact:
            found.append(f"the audit chain is broken: {verdict.problems}")
        for each in verify_all(self.pipeline.catalogue):
            if each.status != "verified":
                found.append(f"snapshot {each.snapshot_id} is {each.status}: {[str(one) for one in each.findings]}")
        leftovers = [str(p) for p in self.database.parent.rglob("*") if ".release-tasks" in p.name]
        leftovers += [str(p) for p in self.pipeline.root.rglob(".*") if p.name != ".gitignore"]
        if leftovers or self.pipeline.journal_path.exists():
            found.append(f"leftovers: {leftovers}")
        if recover(self.settings).status != "clean":
            found.append("there was something to recover")
        snapshots = self.pipeline.catalogue.published()[0]
        protected = self.pipeline.protected_snapshots()
        for kind in ("release", "safety"):
            retained = [s for s in snapshots if s.kind == kind and s.snapshot_id not in protected]
            if len(retained) > RETENTION:
                found.append(f"{len(retained)} {kind} snapshots are retained")
        return found

    def measure(self) -> str:
        """Record memory, open files and disk use, and return them as text."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        self.files.append(len(os.listdir("/proc/self/fd")))
        # Without manifests, which are never removed.
        paths = [path for path in self.folder.rglob("*") if path.is_file() and "manifests" not in path.parts]
        self.disk.append(sum(path.stat().st_size for path in paths) >> 20)
        return f"{self.memory[-1]} MiB, {self.files[-1]} files open, {self.disk[-1]} MiB on disk"

    def judge_growth(self) -> None:
        """Compare the last third of the cycles with the first third."""
        third = max(1, len(self.memory) // 3)
        for name, values, slack in (
            ("memory", self.memory, MEMORY_SLACK_MIB),
            ("open files", self.files, FILES_SLACK),
            ("disk use", self.disk, self._disk_slack()),
        ):
            before, after = max(values[:third]), max(values[-third:])
            if after > before + slack:
                self.problems.append(f"{name} grew from {before} to {after}")

    def _disk_slack(self) -> int:
        # Up to RETENTION snapshots of each kind and the protected ones, each as large as the present state.
        state = sum(p.stat().st_size for p in self.database.parent.rglob("*") if p.is_file()) >> 20
        return (2 * RETENTION + 4) * (state + 1)


def run(soak: Soak, seconds: float, every: float) -> int:
    """Run cycles until the time is over; returns the number of the writer's commits."""
    writer = soak.start_writer()
    try:
        begin = time.monotonic()
        cycle = 0
        while cycle == 0 or time.monotonic() - begin < seconds:
            started = time.monotonic()
            result = soak.act(cycle)
            took = time.monotonic() - started
            soak.seconds.setdefault(result, []).append(took)
            soak.done[result] += 1
            before = len(soak.problems)
            soak.check(cycle)
            words = "no problems" if len(soak.problems) == before else "; ".join(soak.problems[before:])
            print(f"{cycle:4} {result:18} {took:6.2f} s  {soak.measure()}  {words}", flush=True)
            cycle += 1
            time.sleep(max(0.0, started + every - time.monotonic()))
            if writer.poll() is not None:
                soak.problems.append(f"cycle {cycle}: the writer ended")
                return 0
    finally:
        if writer.poll() is None:
            writer.send_signal(signal.SIGTERM)
        printed, _ = writer.communicate(timeout=60)
    return int(printed or 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--commits", type=float, default=200, help="commits a second")
    parser.add_argument("--every", type=float, default=10, help="seconds from one release or rollback to the next")
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("memory/soak"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        soak = Soak(folder, arguments.megabytes, arguments.commits, arguments.seed)
        started = time.monotonic()
        commits = run(soak, arguments.minutes * 60, arguments.every)
        elapsed = time.monotonic() - started
        soak.judge_growth()
        events = len(soak.pipeline.audit.verify().events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n| soak | {arguments.minutes:g} minutes, seed {arguments.seed} |\n| --- | --- |")
    for result, durations in sorted(soak.seconds.items()):
        median, longest = statistics.median(durations), max(durations)
        print(f"| {result} | {len(durations)} times, median {median:.2f} s, longest {longest:.2f} s |")
    print(f"| commits | {commits}, {commits / elapsed:.0f} a second |")
    print(f"| audit events | {events}, one chain |")
    for name, values in (("memory, MiB", soak.memory), ("open files", soak.files), ("disk use, MiB", soak.disk)):
        print(f"| {name} | first {values[0]}, last {values[-1]}, most {max(values)} |")
    print(f"| violations | {len(soak.problems)} |")
    for problem in soak.problems:
        print(f"\nVIOLATED: {problem}")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
