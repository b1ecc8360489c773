"""Commit times of a live service while its database is captured and restored.

    python -m tests.bench.bench_writers [--megabytes 1024] [--rate 100] [--folder DIR]

A writer process commits ``rate`` times a second. Prints the median, p99 and longest commit time in milliseconds: idle,
during a capture, and during a restore through SQLite. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from release_tasks.assets.sqlite.database import capture_database
from release_tasks.assets.sqlite.restore import restore_database
from release_tasks.core.digests import sha256_file
from release_tasks.core.place import trusted

WRITER = """
import json, signal, sqlite3, sys, time
path, rate = sys.argv[1], float(sys.argv[2])
stop = []
signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
db = sqlite3.connect(path, timeout=120, isolation_level=None)
samples, due = [], time.perf_counter()
print("ready", flush=True)
while not stop:
    started = time.perf_counter()
    db.execute("INSERT INTO t(key, body) VALUES (1, zeroblob(500))")
    samples.append((time.perf_counter() - started) * 1000)
    due = max(due + 1 / rate, time.perf_counter())
    time.sleep(max(0, due - time.perf_counter()))
print(json.dumps(samples))
"""


def commits_during(database: Path, rate: float, work: Callable[[], object]) -> list[float]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database), str(rate)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    work()
    writer.terminate()
    samples: list[float] = json.loads(writer.stdout.readline())
    writer.wait()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--folder", type=Path, default=Path("memory/bench"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    live, copy = folder / "live.db", folder / "copy.db"
    try:
        connection = sqlite3.connect(live)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, key INTEGER, body BLOB)")
        while live.stat().st_size < arguments.megabytes << 20:
            rows = [(1, os.urandom(3000)) for _ in range(5000)]
            connection.executemany("INSERT INTO t(key, body) VALUES (?, ?)", rows)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.close()

        def capture() -> None:
            copy.unlink(missing_ok=True)
            capture_database(trusted(live), copy)

        print("| while | commits | median | p99 | worst |\n| --- | --- | --- | --- | --- |")
        for name, work in (
            ("nothing else happens", lambda: time.sleep(8)),
            ("it is captured", capture),
            ("it is restored", lambda: restore_database(copy, trusted(live), sha256_file(copy))),
        ):
            samples = sorted(commits_during(live, arguments.rate, work))
            p99 = samples[int(len(samples) * 0.99)]
            middle = statistics.median(samples)
            row = f"| {name} | {len(samples)} | {middle:.2f} ms | {p99:.2f} ms | {samples[-1]:.0f} ms |"
            print(row, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
