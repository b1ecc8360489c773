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

from release_tasks.config.gateway import SENDING, child_environment
from release_tasks.gateway.home import GatewayHome

__all__ = ["Worker"]

_LOG = logging.getLogger("gateway.worker")
# A beat comes each second; a delivery may take 10 s and a wait for the database another 10.
_SILENCE_SECONDS = 25.0
_KILL_SECONDS = 0.5


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

    def state(self) -> dict[str, Any]:
        """Return what health shows of the process; ``lastBeatSec`` is the age of its last beat."""
        process = self._process
        now = time.monotonic()
        is_running, detail = False, self._trouble
        if process is None:
            detail = "it was not started"
        elif (code := process.poll()) is not None:
            detail = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        elif now - (self._beat or self._started) > _SILENCE_SECONDS:
            detail = f"no beat for {_SILENCE_SECONDS:.0f} s"
        else:
            is_running = True
        return {
            "running": is_running,
            "pid": None if process is None else process.pid,
            "lastBeatSec": None if self._beat is None else round(now - self._beat, 3),
            "detail": detail,
        }

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
