"""``inv --list`` of a project with the suite, against one with an empty tasks.py.

    python -m tests.bench.bench_list [--runs 15]

Runs alternate, so that both have the same load of the machine. Prints both medians and their ratio; asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EMPTY = "from invoke import task\n\n@task\ndef nothing(ctx):\n    '''Do nothing.'''\n"
SUITE = "from release_tasks import ns\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {"empty": [], "suite": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in (("empty", EMPTY), ("suite", SUITE)):
            folder = Path(scratch, name)
            folder.mkdir()
            (folder / "tasks.py").write_text(text)
        for number in range(runs + 2):
            for name, values in times.items():
                started = time.perf_counter()
                command = [sys.executable, "-m", "invoke", "--list"]
                subprocess.run(command, cwd=Path(scratch, name), check=True, capture_output=True)
                if number >= 2:  # the first ones fill the caches
                    values.append(time.perf_counter() - started)
    empty, suite = (statistics.median(times[name]) * 1000 for name in ("empty", "suite"))
    print(f"empty tasks.py {empty:.0f} ms, the suite {suite:.0f} ms, ratio {suite / empty:.2f} (medians of {runs})")


if __name__ == "__main__":
    main()
