"""Capture and restore against ``sqlite3 .backup`` + ``cp -a``, restic and borg, in one run on one state.

    python -m tests.bench.bench_snapshots [--megabytes 1024] [--files 2000] [--runs 5] [--folder DIR]

The state is a database in WAL mode, a folder of small files and six config files. Every program writes to the same
filesystem, and its time includes a ``sync``, because release-tasks returns only when everything is on disk. Prints a
Markdown table of medians, ratios and peak memory; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CONFIGS = 6
SECRET = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

# Prints the peak memory of the process, in KiB.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

CAPTURE = """
import sys, json
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.capture import CaptureRequest, capture_snapshot
folder, name = Path(sys.argv[1]), sys.argv[2]
settings = load_settings(json.loads((folder / "bench.json").read_text()), folder)
request = CaptureRequest(snapshot_id=name, release_id=name, kind="release", retention_limit=5)
capture_snapshot(Pipeline(settings.release.root).catalogue, settings.release.assets, request)
"""

ROLLBACK = """
import sys, json
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
folder, name = Path(sys.argv[1]), sys.argv[2]
settings = load_settings(json.loads((folder / "bench.json").read_text()), folder)
outcome = rollback(settings, RollbackRequest(snapshot_id=name, force=True))
assert outcome.status == "restored", outcome
"""


class Bench:
    def __init__(self, folder: Path, megabytes: int, files: int) -> None:
        self.folder = folder
        self.live = folder / "live"
        self.megabytes = megabytes
        self.files = files
        self.environment = {**os.environ, **SECRET, "HOME": str(folder)}
        self.snapshot = 0  # the number of the latest snapshot of release-tasks
        self.archive = 0  # the number of the latest archive of borg

    def make_state(self) -> None:
        """Write random rows, so that compression and deduplication have no effect."""
        (self.live / "identity").mkdir(parents=True)
        generator = random.Random(1)
        database = sqlite3.connect(self.live / "app.db")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, key INTEGER, body BLOB)")
        database.execute("CREATE INDEX t_key ON t(key)")
        while (self.live / "app.db").stat().st_size < self.megabytes << 20:
            rows = [(generator.getrandbits(31), generator.randbytes(3000)) for _ in range(5000)]
            database.executemany("INSERT INTO t(key, body) VALUES (?, ?)", rows)
            database.commit()
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        database.close()
        for number in range(self.files):
            folder = self.live / "identity" / f"{number % 40:02d}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.json").write_bytes(generator.randbytes(generator.randint(200, 8000)))
        assets = {"database": {"sqlite": "live/app.db"}, "identity": {"directory": "live/identity"}}
        for number in range(CONFIGS):
            (self.live / f"config-{number}.json").write_text(json.dumps({"n": number}))
            assets[f"config-{number}"] = {"file": f"live/config-{number}.json"}
        section = {"release": {"root": "pipeline", "assets": assets, "retention": 1}}
        (self.folder / "bench.json").write_text(json.dumps(section))

    def change_one_percent(self) -> None:
        """Change rows in all parts of the file, as a service does between two releases."""
        database = sqlite3.connect(self.live / "app.db")
        database.execute("UPDATE t SET key = key + 1 WHERE id % 100 = ?", (random.randrange(100),))
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def run_stage(self, script: str, name: str) -> int:
        """Run a stage of release-tasks in a process of its own; returns its peak memory in MiB."""
        return int(self.call(sys.executable, "-c", script + PEAK, str(self.folder), name)) // 1024

    def capture_ours(self) -> int:
        self.snapshot += 1
        return self.run_stage(CAPTURE, f"s{self.snapshot}")

    def rollback_ours(self) -> int:
        return self.run_stage(ROLLBACK, f"s{self.snapshot}")

    def capture_plain(self) -> None:
        copy = self.folder / "plain"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        self.call("sqlite3", str(self.live / "app.db"), f".backup {copy}/app.db")
        self.call("cp", "-a", str(self.live / "identity"), str(copy))
        self.call("cp", "-a", *(str(self.live / f"config-{n}.json") for n in range(CONFIGS)), str(copy))
        self.call("sync")

    def restore_plain(self) -> None:
        copy, target = self.folder / "plain", self.folder / "plain-restored"
        shutil.rmtree(target, ignore_errors=True)
        self.call("cp", "-a", str(copy), str(target))
        self.call("sync")

    def capture_restic(self, repository: str = "restic") -> None:
        path = self.folder / repository
        if not path.exists():
            self.call("restic", "-q", "-r", str(path), "init")
        self.call("restic", "-q", "-r", str(path), "backup", str(self.live))
        self.call("sync")

    def restore_restic(self) -> None:
        target = self.folder / "restic-restored"
        shutil.rmtree(target, ignore_errors=True)
        self.call("restic", "-q", "-r", str(self.folder / "restic"), "restore", "latest", "--target", str(target))
        self.call("sync")

    def capture_borg(self) -> None:
        path = self.folder / "borg"
        if not path.exists():
            self.call("borg", "init", "-e", "none", str(path))
        self.archive += 1
        self.call("borg", "create", f"{path}::a{self.archive}", str(self.live))
        self.call("sync")

    def restore_borg(self) -> None:
        target = self.folder / "borg-restored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        archive = f"{self.folder / 'borg'}::a{self.archive}"
        subprocess.run(["borg", "extract", archive], cwd=target, env=self.environment, check=True, capture_output=True)
        self.call("sync")


def timed(action: Callable[[], object]) -> float:
    subprocess.run(["sync"], check=True)
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def remove(bench: Bench, *names: str) -> None:
    for name in names:
        shutil.rmtree(bench.folder / name, ignore_errors=True)


def measure(bench: Bench, runs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}

    def note(name: str, action: Callable[[], object]) -> None:
        seconds = timed(action)
        times.setdefault(name, []).append(seconds)
        print(f"  {name}: {seconds:.2f}s", file=sys.stderr, flush=True)

    for number in range(runs):
        print(f"run {number + 1} of {runs}", file=sys.stderr)
        remove(bench, "pipeline", "restic", "borg")
        note("first capture|release-tasks", bench.capture_ours)
        note("first capture|.backup + cp -a", bench.capture_plain)
        note("first capture|restic", bench.capture_restic)
        note("first capture|borg", bench.capture_borg)
        bench.change_one_percent()
        # The same work for all programs: save the live state, then restore the older state.
        note("rollback|release-tasks", bench.rollback_ours)
        bench.change_one_percent()
        note("capture again|.backup + cp -a", bench.capture_plain)
        note("capture again|restic", bench.capture_restic)
        note("capture again|borg", bench.capture_borg)
        note("restore|.backup + cp -a", bench.restore_plain)
        note("restore|restic", bench.restore_restic)
        note("restore|borg", bench.restore_borg)
    for tool in (".backup + cp -a", "restic", "borg"):
        pairs = zip(times[f"capture again|{tool}"], times[f"restore|{tool}"], strict=True)
        times[f"rollback|{tool}"] = [capture + restore for capture, restore in pairs]
    return times


def table(times: dict[str, list[float]], work: str) -> list[str]:
    ours = statistics.median(times[f"{work}|release-tasks"])
    rows = [f"| {work} | median | all runs | release-tasks takes |", "| --- | --- | --- | --- |"]
    for name, values in times.items():
        if name.startswith(f"{work}|"):
            middle = statistics.median(values)
            shown = ", ".join(f"{value:.1f}" for value in values)
            rows.append(f"| {name.split('|')[1]} | {middle:.2f} s | {shown} | {ours / middle:.2f} times as long |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("memory/bench"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(folder, arguments.megabytes, arguments.files)
    try:
        bench.make_state()
        times = measure(bench, arguments.runs)
        remove(bench, "pipeline")
        capture_peak = bench.capture_ours()
        bench.change_one_percent()
        rollback_peak = bench.rollback_ours()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    print(f"{os.cpu_count()} cores, {memory} GiB, {system}")
    state = f"database {arguments.megabytes} MiB, {arguments.files} small files, {CONFIGS} configs"
    print(f"{state}, {arguments.runs} runs\n")
    for work in ("first capture", "rollback"):
        print("\n".join(table(times, work)) + "\n")
    print(f"Peak memory of release-tasks: capture {capture_peak} MiB, rollback {rollback_peak} MiB")


if __name__ == "__main__":
    main()
