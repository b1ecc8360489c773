"""Test boot of the service on restored state, on a free port: wait until it is healthy, then end all its processes."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.config.endpoint import Question
from release_tasks.config.schema import HealthConfig, Settings
from release_tasks.core.errors import Interrupted, UsageError
from release_tasks.core.events import Emit
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.options import Duration
from release_tasks.core.process.find import find_open_path, start_ticks
from release_tasks.core.process.masking import LogMask
from release_tasks.core.process.output import read_log_tail
from release_tasks.core.records import Baseline
from release_tasks.core.units import show_duration, show_size
from release_tasks.service.request import shown_endpoint
from release_tasks.service.wait import poll_health
from release_tasks.stages.drill.outcome import BootOutcome
from release_tasks.stages.drill.scratch import ROOT_VARIABLE, Scratch, processes_of

__all__ = ["GRACE_SECONDS", "MAX_OUTPUT_BYTES", "Service", "boot"]

_REQUEST_SECONDS = 5.0
_INTERVAL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL
_INTERRUPTED_GRACE_SECONDS = 1.0  # when a signal ends the drill
MAX_OUTPUT_BYTES = 64 << 20
_PORTS = range(20_000, 32_000)
_TAIL_LINES = 20


@frozen(kw_only=True)
class Service:
    """The way to start the service on restored state.

    ``arguments`` makes the command line from the scratch configuration and a free port; ``shown`` is its text in
    messages. ``questions`` are about its health, with ``{port}`` in their URLs; ``notes`` name what cannot be asked.
    ``timeout`` is in seconds. The drill's variables are added to ``environment``.
    """

    shown: str
    arguments: Callable[[Settings, int], list[str]]
    questions: Sequence[Question]
    timeout: float
    environment: Mapping[str, str] = field(repr=False)
    notes: Sequence[str] = ()


def boot(
    service: Service,
    scratch: Scratch,
    settings: Settings,
    live: Collection[Path],
    emit: Emit,
    before: Baseline | None = None,
) -> BootOutcome:
    """Start the service on restored state and wait until it is healthy; all its processes are ended on return.

    ``settings`` is the scratch configuration; ``live`` are the paths that the service must not open. ``before``
    is the baseline of the release. Does not raise when the service fails: the outcome has the reason.
    """
    started = time.monotonic()
    health, questions = None, list(service.questions)
    try:
        port = _free_port()
        questions = [evolve(each, url=each.url.replace("{port}", str(port))) for each in questions]
        with _running(service, scratch, settings, port, live) as attempt:
            config = HealthConfig(
                timeout=Duration(_REQUEST_SECONDS),
                deadline=Duration(service.timeout),
                interval=Duration(_INTERVAL_SECONDS),
            )
            health = poll_health(config, passes=1, questions=questions, start=attempt, emit=emit, before=before)
            problem = attempt.failure()
    except OSError as error:
        problem = f"it cannot be started: {error.strerror or error}"
    duration = time.monotonic() - started
    passed = not problem and health is not None and health.passed
    if health is not None and not problem and not passed:
        did = "its health is unknown" if health.status == "unknown" else "it did not become healthy"
        problem = f"{did}: {health.detail}"
    word = "healthy" if health is None or health.status != "unknown" else health.detail
    tail = [] if passed else read_log_tail(scratch.boot_log)[-_TAIL_LINES:]
    return BootOutcome(
        passed=passed,
        detail=problem or f"{word}, started and ended within {show_duration(round(duration, 1))}",
        command=service.shown,
        url=shown_endpoint(questions[0].url, questions[0].request),
        health=health,
        duration_ms=round(duration * 1000),
        output_tail=tail,
    )


@contextlib.contextmanager
def _running(
    service: Service, scratch: Scratch, settings: Settings, port: int, live: Collection[Path]
) -> Iterator[_Attempt]:
    """Start the service for the block, and end all its processes afterwards."""
    attempt, grace_period = None, GRACE_SECONDS
    try:
        environment = _environment(service, scratch, settings, port)
        attempt = _Attempt(service.arguments(settings, port), environment, scratch, live)
        yield attempt
    except Interrupted:
        grace_period = _INTERRUPTED_GRACE_SECONDS
        raise
    finally:
        with uninterrupted():
            if attempt is not None:
                attempt.end(grace_period)


class _Attempt:
    """The processes of one boot and the first problem found."""

    def __init__(
        self, arguments: list[str], environment: dict[str, str], scratch: Scratch, live: Collection[Path]
    ) -> None:
        self.scratch = scratch
        self.live = live
        self._problem = ""
        self._mask = LogMask(scratch.boot_log)
        log = os.open(scratch.boot_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.process = subprocess.Popen(
                arguments,
                cwd=scratch.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        pid = self.process.pid
        self._processes = processes_of(scratch.project, pid, start_ticks(pid))

    def failure(self) -> str:
        """Return the first problem that ends this attempt, or an empty text."""
        self._mask.observe()
        self._problem = self._problem or self._find_problem()
        return self._problem

    def counts_from(self) -> float:
        """Return the awake time from which an answer counts: no process was at this port before."""
        return -math.inf

    def end(self, grace_period: float) -> None:
        """End all processes of the service."""
        # Before wait(): the PID of a zombie cannot be given to another process.
        self._processes.terminate(grace_period)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        self._mask.finish()

    def _find_problem(self) -> str:
        opened = find_open_path(self._processes.search(), self.live)
        if opened is not None:
            return f"it opened the live path {opened}; it must take every path from the drill's variables"
        code = _exit_code(self.process.pid)
        if code:
            return f"it ended with {'signal' if code < 0 else 'exit code'} {abs(code)}"
        if code == 0 and not self._processes.running():
            return "it ended with exit code 0 and left no process running"
        if self.scratch.boot_log.stat().st_size > MAX_OUTPUT_BYTES:
            return f"it printed more than {show_size(MAX_OUTPUT_BYTES)}"
        return ""


def _exit_code(pid: int) -> int | None:
    """Return the exit code of a child, negative for a signal, or None while it runs; the child stays a zombie."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _environment(service: Service, scratch: Scratch, settings: Settings, port: int) -> dict[str, str]:
    assets: dict[str, str] = {}
    for key, asset in settings.release.assets.items():
        name = "RELEASE_TASKS_DRILL_ASSET_" + re.sub(r"[^A-Za-z0-9]", "_", key).upper()
        if name in assets:
            raise UsageError(f"Two assets would have the same variable {name}: rename {key!r} in release.assets.")
        assets[name] = str(asset.path)
    own = {ROOT_VARIABLE: str(scratch.project), "RELEASE_TASKS_DRILL_PORT": str(port)}
    return {**service.environment, **assets, **own}


def _free_port() -> int:
    """Return an unused port below the ephemeral port range."""
    for port in (*random.SystemRandom().sample(_PORTS, 50), 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no port on 127.0.0.1 is free")
