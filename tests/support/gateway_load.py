"""Measures a gateway: approved senders alone, then with slow clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from attrs import define

from release_tasks.config.schema import PairingConfig
from tests.support.approved_senders import TELEGRAM_SENDER, WHATSAPP_SENDER

__all__ = ["SECRETS", "Load", "approve_senders", "quantile"]

SECRETS = {"TELEGRAM_WEBHOOK_SECRET": "a-telegram-secret", "WHATSAPP_APP_SECRET": "an app secret"}


def approve_senders(folder: Path) -> PairingConfig:
    """Return the configuration of pairing stores in ``folder`` in which the senders of the load are approved."""
    folder.mkdir(mode=0o700)
    for channel, sender in (("telegram", TELEGRAM_SENDER), ("whatsapp", WHATSAPP_SENDER)):
        (folder / f"{channel}-allowFrom.json").write_text(json.dumps({"senderIds": [sender]}))
    return PairingConfig(credentials=folder)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@define
class Load:
    """Load on the gateway process ``pid`` at ``port``. Sizes in MiB."""

    port: int
    pid: int

    def get_precedence(self) -> bool:
        """Let the gateway and this process run before all others, so that a busy machine has no part in the times.

        Only root can. Children started later inherit it.
        """
        precedence = os.sched_param(1)
        with contextlib.suppress(PermissionError):
            for thread in psutil.Process(self.pid).threads():
                os.sched_setscheduler(thread.id, os.SCHED_RR, precedence)
            os.sched_setscheduler(0, os.SCHED_RR, precedence)
            return True
        return False

    def give_back_precedence(self) -> None:
        """End the precedence of this process."""
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def send(self, seconds: float, senders: int = 4) -> dict[str, Any]:
        """Let approved senders write for ``seconds``; return their times."""
        arguments = [str(self.port), str(seconds), str(senders)]
        command = [sys.executable, "-m", "tests.support.approved_senders", *arguments]
        result = subprocess.run(
            command, env={**os.environ, **SECRETS}, stdout=subprocess.PIPE, check=True, timeout=seconds + 60
        )
        measured: dict[str, Any] = json.loads(result.stdout)
        return measured

    @contextmanager
    def slow_clients(self, count: int) -> Iterator[dict[str, int]]:
        """Hold connections of ``count`` slow clients; the dictionary has their counts after the block."""
        command = [sys.executable, "-m", "tests.support.slow_clients", str(self.port), str(count)]
        seen: dict[str, int] = {}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                yield seen
                seen.update(json.loads(process.communicate(timeout=60)[0]))
            finally:
                process.kill()

    def memory(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss / 2**20)

    def open_files(self) -> int:
        return int(psutil.Process(self.pid).num_fds())

    def wait_for_connections(self, at_least: int, seconds: float = 30.0) -> None:
        """Wait until the gateway has this many open files."""
        end = time.monotonic() + seconds
        while self.open_files() < at_least:
            assert time.monotonic() < end, f"{self.open_files()} open files"
            time.sleep(0.05)
