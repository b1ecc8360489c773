"""Approved senders and slow clients: the times of their messages and of health, memory and files of the gateway.

    python -m tests.bench.bench_gateway [--clients 2000] [--seconds 60]

Exits with 1 when a message or health failed, the p99 of messages is a second or more, or memory or files grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from release_tasks.gateway import process
from release_tasks.gateway.paths import GatewayPaths
from tests.support.gateway_load import SECRETS, Load, approve_senders, quantile

PARTS = 6  # the memory is measured after each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    os.environ.update(SECRETS)
    with tempfile.TemporaryDirectory() as scratch:
        home = GatewayPaths(Path(scratch, "gateway"))
        status = process.start(home, port=0, pairing=approve_senders(Path(scratch, "credentials")))
        assert status.pid is not None and status.port is not None
        try:
            is_good = measure(Load(status.port, status.pid), options.clients, options.seconds)
            log = home.log_file.stat().st_size
            print(f"log: {log / 1024:.0f} KiB")
        finally:
            process.stop(home)
    sys.exit(0 if is_good else 1)


def measure(load: Load, clients: int, seconds: float) -> bool:
    alone = load.send(min(seconds, 10.0))
    files = load.open_files()
    with load.slow_clients(clients) as seen:
        time.sleep(min(seconds / 4, 10.0))
        memory, held = [load.memory()], load.open_files()
        parts = []
        for _ in range(PARTS):
            parts.append(load.send(seconds / PARTS))
            memory.append(load.memory())
    end = time.monotonic() + 10
    while load.open_files() > files + 5 and time.monotonic() < end:
        time.sleep(0.1)
    loaded = {key: [each for part in parts for each in part[key]] for key in ("messages", "health", "wrong")}
    for name, found in (("alone", alone), (f"with {clients} slow clients", loaded)):
        times, health = found["messages"], found["health"]
        print(
            f"{name}: {len(times)} messages, median {quantile(times, 0.5) * 1000:.0f} ms,"
            f" p99 {quantile(times, 0.99) * 1000:.0f} ms, longest {max(times) * 1000:.0f} ms;"
            f" health {len(health)} times, longest {max(health) * 1000:.0f} ms;"
            f" wrong: {found['wrong'] or 'none'}"
        )
    print(f"slow clients: {seen}")
    print(f"memory in MiB: {', '.join(f'{each:.1f}' for each in memory)}")
    print(f"open files: {files}, {held} with the clients, {load.open_files()} after them")
    is_flat = memory[-1] < memory[0] * 1.1 + 5 and load.open_files() <= files + 5
    return not loaded["wrong"] and quantile(loaded["messages"], 0.99) < 1.0 and is_flat


if __name__ == "__main__":
    main()
