"""What is measured: seconds, the longest commit of a writer, and the anonymous memory of processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["Writer", "peak_memory", "seconds", "writer"]

# Commits without a flush of its own, so that what delays a commit is a lock rather than the disk.
WRITER = """
import json, signal, sqlite3, sys, time
path, rate = sys.argv[1], float(sys.argv[2])
stop = []
signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
database = sqlite3.connect(path, timeout=120, isolation_level=None)
database.execute("PRAGMA synchronous = NORMAL")
longest, commits = 0.0, 0
print("ready", flush=True)
while not stop:
    started = time.perf_counter()
    database.execute("INSERT INTO commits(body) VALUES (zeroblob(100))")
    took = time.perf_counter() - started
    longest, commits = max(longest, took), commits + 1
    time.sleep(max(0.0, 1 / rate - took))
print(json.dumps([longest, commits]))
"""


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


class Writer:
    """A service that commits; ``longest`` (seconds) and ``commits`` are known when it has ended."""

    longest = 0.0
    commits = 0


@contextmanager
def writer(database: Path, rate: float = 100) -> Iterator[Writer]:
    """Let a process commit ``rate`` times a second while the block runs."""
    found = Writer()
    command = [sys.executable, "-c", WRITER, str(database), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield found
        finally:
            process.terminate()
            line = process.stdout.readline()
        found.longest, found.commits = json.loads(line)


def peak_memory(command: Sequence[str], folder: Path, every: float = 0.01) -> int:
    """Run a command and return the peak of RssAnon, its child processes included, in bytes."""
    peak = 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                break
            peak = max(peak, sum(_anonymous(member.pid) for member in family))
            time.sleep(every)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended and was not waited for
