"""The service's side of the dispatcher: starts it, hears its beats, wakes it, ends it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

from attrs import frozen

from release_tasks.config.gateway import SENDING, child_environment
from release_tasks.gateway.home import GatewayHome

__all__ = ["Worker", "WorkerState"]

_LOG = logging.getLogger("gateway.worker")
# A beat comes each second; a delivery may take 10 s and a wait for the database another 10.
_SILENCE_SECONDS = 25.0
_KILL_SECONDS = 0.5


@frozen
class WorkerState:
    """What is known of the dispatcher; ``last_beat`` is that beat's age in seconds."""

    is_running: bool
    pid: int | None
    last_beat: float | None
    detail: str | None


class Worker:
    """The dispatcher's process, started once: a dead one stays dead, and health says so."""

    def __init__(self, home: GatewayHome) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._beat: float | None = None
        self._trouble: str | None = None

    def start(self) -> None:
        """Start the process; its log lines go where the service's go."""
        command = [sys.executable, "-m", "release_tasks.gateway.dispatcher", "--root", str(self._home.root)]
        environment = child_environment(SENDING)
        self._started = time.monotonic()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        # A worker that was stopped (SIGSTOP) must not hold up the request that wakes it.
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wake(self) -> None:
        """Tell the worker that there is something to deliver; a dead one is left alone."""
        process = self._process
        if process is not None and process.stdin is not None and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                os.write(process.stdin.fileno(), b"\n")

    def state(self) -> WorkerState:
        """Look at the process and at its last beat."""
        process = self._process
        if process is None:
            return WorkerState(False, None, None, "it was not started")
        now = time.monotonic()
        age = None if self._beat is None else now - self._beat
        code = process.poll()
        if code is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return WorkerState(False, process.pid, age, f"its process ended with {how}")
        if now - (self._beat or self._started) > _SILENCE_SECONDS:
            return WorkerState(False, process.pid, age, f"no beat for {_SILENCE_SECONDS:.0f} s")
        return WorkerState(True, process.pid, age, self._trouble)

    def stop(self) -> None:
        """End the worker: after a moment for the delivery under way, by force."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # which asks it to end
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    report: dict[str, Any] = json.loads(line)
                    self._beat, self._trouble = time.monotonic(), report.get("trouble")
        if process.wait() != 0:
            _LOG.error("the dispatcher ended with %s", process.returncode)
