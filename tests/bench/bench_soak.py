"""Releases and rollbacks, one after the other, of a database that is written all the time: does anything drift?

    python tests/bench/bench_soak.py [--minutes 10] [--commits 200] [--every 10] [--megabytes 8] [--folder DIR]

A writer process moves money between accounts, so that the sum never changes, and writes every transfer into a ledger.
Every ``every`` seconds a release is prepared or a rollback is made in this process, chosen by a seeded generator. After
each: the balances are what the ledger says, every file is of the one generation that is live, the audit chain holds,
every snapshot verifies, nothing is left over, and no more is kept than retention allows. Prints a line a cycle and a
table at the end; exits with 1 when something was violated, or when memory, open files or disk use grew.
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
from release_tasks.core.clock import timestamp
from release_tasks.core.records import Check, PreflightReport
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings

ACCOUNTS, BALANCE = 200, 1000
RETENTION = 3
# How much more than in the first cycles the later ones may need: the interpreter's own caches and arenas.
MEMORY_SLACK_MIB = 16
FILES_SLACK = 2

WRITER = """
import random, signal, sqlite3, sys, time
path, rate, accounts = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
db = sqlite3.connect(path, timeout=60, isolation_level=None)
commits, due = 0, time.perf_counter()
print("writing", flush=True)
while not stop:
    a, b = random.sample(range(accounts), 2)
    amount = random.randint(1, 5)
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, a))
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, b))
    db.execute("INSERT INTO ledger(a, b, amount) VALUES (?, ?, ?)", (a, b, amount))
    db.execute("COMMIT")
    commits += 1
    due = max(due + 1 / rate, time.perf_counter() - 1)
    time.sleep(max(0, due - time.perf_counter()))
print(commits, flush=True)
db.close()
"""


class Soak:
    """The project, the writer, and what was found wrong."""

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
        command = [sys.executable, "-c", WRITER, str(self.database), str(self.commits), str(ACCOUNTS)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        return writer

    def deploy(self) -> None:
        """Change every asset, as a deployment does: another generation from here on, everywhere."""
        self.generation = self.choose.randrange(1, 1 << 30)
        database = sqlite3.connect(self.database, timeout=60)
        database.execute("UPDATE generation SET number = ?", (self.generation,))
        database.commit()
        database.close()
        self._mark_files(self.generation)

    def act(self, cycle: int) -> str:
        """Prepare a release and deploy after it, or go back to one of the snapshots there are."""
        if cycle == 0 or self.choose.random() < 0.5:
            told = self._prepare(f"r{cycle}")
            self.deploy()
            return told
        snapshots = self.pipeline.catalogue.published()[0]
        target = self.choose.choice([None, *(snapshot.snapshot_id for snapshot in snapshots)])
        return self._roll_back(target)

    def _prepare(self, release_id: str) -> str:
        now = timestamp()
        check = Check(
            id="always", subsystem="always", status="passed", detail="", started_at=now, completed_at=now, duration_ms=0
        )
        report = PreflightReport(passed=True, checks=[check], failed_checks=[])
        logs = self.settings.release.root / "logs" / release_id
        run = PreflightRun(
            release_id=release_id,
            report=report,
            health_url=None,
            only=(),
            skip=(),
            strict=False,
            log_directory=logs,
        )
        manifest = prepare_release(self.settings, preflight=run)
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
        """Note whatever does not hold."""
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
            found.append("the balances are not what the ledger says")
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
        strays = [str(p) for p in self.database.parent.rglob("*") if ".release-tasks" in p.name]
        strays += [str(p) for p in self.pipeline.root.rglob(".*")]
        if strays or self.pipeline.journal_path.exists():
            found.append(f"left over: {strays}")
        if recover(self.settings).status != "clean":
            found.append("there was something to recover")
        snapshots = self.pipeline.catalogue.published()[0]
        protected = self.pipeline.protected_snapshots()
        for kind in ("release", "safety"):
            kept = [s for s in snapshots if s.kind == kind and s.snapshot_id not in protected]
            if len(kept) > RETENTION:
                found.append(f"{len(kept)} {kind} snapshots are kept")
        return found

    def measure(self) -> str:
        """Note what this process and the disk hold, and return it as words."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        self.files.append(len(os.listdir("/proc/self/fd")))
        # Without the logs of gates and manifests, which are never removed, and by what a block is worth on any disk.
        paths = [path for path in self.folder.rglob("*") if path.is_file() and "manifests" not in path.parts]
        self.disk.append(sum(path.stat().st_size for path in paths) >> 20)
        return f"{self.memory[-1]} MiB, {self.files[-1]} files open, {self.disk[-1]} MiB on disk"

    def judge_growth(self) -> None:
        """Compare the last third of the cycles with the first third, past the first one."""
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
        # Up to RETENTION snapshots of each kind and the protected ones, each as large as the state has become.
        state = sum(p.stat().st_size for p in self.database.parent.rglob("*") if p.is_file()) >> 20
        return (2 * RETENTION + 4) * (state + 1)


def run(soak: Soak, seconds: float, every: float) -> int:
    """Do one cycle after the other until the time is over; returns how many commits the writer made."""
    writer = soak.start_writer()
    try:
        begun = time.monotonic()
        cycle = 0
        while cycle == 0 or time.monotonic() - begun < seconds:
            started = time.monotonic()
            told = soak.act(cycle)
            took = time.monotonic() - started
            soak.seconds.setdefault(told, []).append(took)
            soak.done[told] += 1
            before = len(soak.problems)
            soak.check(cycle)
            words = "all holds" if len(soak.problems) == before else "; ".join(soak.problems[before:])
            print(f"{cycle:4} {told:18} {took:6.2f} s  {soak.measure()}  {words}", flush=True)
            cycle += 1
            time.sleep(max(0.0, started + every - time.monotonic()))
            if writer.poll() is not None:
                soak.problems.append(f"cycle {cycle}: the writer ended")
                return 0
    finally:
        if writer.poll() is None:
            writer.send_signal(signal.SIGTERM)
        told, _ = writer.communicate(timeout=60)
    return int(told or 0)


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
        began = time.monotonic()
        commits = run(soak, arguments.minutes * 60, arguments.every)
        elapsed = time.monotonic() - began
        soak.judge_growth()
        events = len(soak.pipeline.audit.verify().events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n| soak | {arguments.minutes:g} minutes, seed {arguments.seed} |\n| --- | --- |")
    for told, values in sorted(soak.seconds.items()):
        median, worst = statistics.median(values), max(values)
        print(f"| {told} | {len(values)} times, median {median:.2f} s, longest {worst:.2f} s |")
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
