"""The gateway in the background: start it, ask for it, stop it."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, frozen

from release_tasks.config.schema import PairingConfig
from release_tasks.core.process.find import children_of, wait_or_kill
from release_tasks.core.process.output import read_log_tail
from release_tasks.gateway.errors import REFUSAL, GatewayError
from release_tasks.gateway.network import bind, check_host, url_of
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile

__all__ = ["GatewayStatus", "start", "status", "stop"]

_POLL_SECONDS = 0.02
_REQUEST_SECONDS = 3.0
_LEFTOVER_SECONDS = 1.5
_TAIL_LINES = 10
_MAX_LOG_BYTES = 8 * 1024 * 1024
_MAX_ANSWER_BYTES = 1024 * 1024


@frozen
class GatewayStatus:
    """What is known of a home's gateway.

    ``health`` is ``ok``, ``degraded``, ``failing``, ``unreachable`` (it runs and does not answer) or ``stopped``;
    ``detail`` says more, for people. ``since`` is RFC 3339.
    """

    running: bool
    health: str
    detail: str
    pid: int | None = None
    host: str | None = None
    port: int | None = None
    since: str | None = None

    @property
    def url(self) -> str | None:
        """Where it answers."""
        return None if self.host is None or self.port is None else url_of(self.host, self.port)


def start(
    home: GatewayPaths,
    *,
    host: str = "127.0.0.1",
    port: int = 3100,
    release_root: Path | None = None,
    pairing: PairingConfig | None = None,
    start_gate: list[str] | None = None,
    allow_remote: bool = False,
    timeout: float = 15.0,
) -> GatewayStatus:
    """Start the gateway in a session of its own and return once it answers; port 0: any free.

    One that already runs in ``home`` is left running and its status returned. ``start_gate`` is a command that must
    succeed before the gateway opens anything. Raises GatewayError, with the end of the log, when it does not answer
    within ``timeout`` seconds; nothing is left running then.
    """
    check_host(host, allow_remote=allow_remote)
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise GatewayError("The embedded gateway needs the extra: pip install 'release-tasks[gateway]'")
    found = _await_decision(home, timeout)
    if found.running:
        return evolve(found, detail=f"It was already running. {found.detail}")
    bind(host, port).close()  # refused here, in one sentence, before anything is spawned
    command = [sys.executable, "-m", "release_tasks.gateway", "--root", str(home.root.absolute())]
    command += ["--host", host, "--port", str(port)]
    command += ["--allow-remote"] if allow_remote else []
    command += ["--release-root", str(release_root.absolute())] if release_root else []
    if pairing:
        command += ["--credentials", str(pairing.credentials.absolute()), "--pairing-ttl", str(pairing.ttl)]
        command += ["--pairing-max-pending", str(pairing.max_pending)]
    command += ["--start-gate", *start_gate] if start_gate else []
    try:
        home.make_root()
        with contextlib.suppress(FileNotFoundError):
            if home.log_file.stat().st_size > _MAX_LOG_BYTES:
                home.log_file.replace(home.log_file.with_suffix(".log.1"))
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with os.fdopen(os.open(home.log_file, log_flags, 0o600), "ab") as log:
            written = os.fstat(log.fileno()).st_size
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    except OSError as error:
        raise GatewayError(f"The gateway cannot start: {error}.") from error
    try:
        _await_answer(home, child, written, timeout)
    except BaseException as error:
        _end_child(child, home)
        found = status(home)
        if isinstance(error, GatewayError) and found.running:
            return evolve(found, detail=f"Another start came first. {found.detail}")
        raise
    # Kept until it ends: Popen warns when it is collected with its process running, and a child that is not waited for
    # stays a zombie.
    _started[child.pid] = child
    return status(home)


def stop(home: GatewayPaths, *, timeout: float = 10.0) -> GatewayStatus:
    """End the gateway, by force after ``timeout`` seconds, and every process that it started.

    One that does not run is no error: the status says so. Raises GatewayError when it may not be ended.
    """
    _reap()
    record = PidFile.read(home.pid_file)
    if record is None or not record.is_running():
        if record is not None:
            record.remove(home.pid_file)
        return GatewayStatus(False, "stopped", "It was not running.")
    below = children_of(record.pid)
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(record.pid, signal.SIGTERM)
        except PermissionError as error:
            raise GatewayError(
                f"The gateway (process {record.pid}) belongs to another user; stop it as that user."
            ) from error
    detail = "Stopped."
    if not _await_end(record, timeout):
        # Asked again: it may have started another MCP server meanwhile.
        below = [*below, *children_of(record.pid)]
        _kill_group(record.pid)
        _await_end(record, timeout)
        detail = f"It did not end within {timeout:g} s and was killed."
    wait_or_kill(below, _LEFTOVER_SECONDS)
    record.remove(home.pid_file)
    return GatewayStatus(False, "stopped", detail)


def status(home: GatewayPaths) -> GatewayStatus:
    """Say whether the home's gateway runs, where, since when, and what its health answers."""
    _reap()
    record = PidFile.read(home.pid_file)
    if record is None or not record.is_running():
        stale = " A stale pid file is there." if home.pid_file.exists() else ""
        return GatewayStatus(False, "stopped", f"Not running.{stale}")
    running = GatewayStatus(True, "unreachable", "Starting.", record.pid, record.host, record.port, record.started_at)
    if running.url is None:
        return running
    try:
        answer = _ask(f"{running.url}/health")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return evolve(running, detail=f"It runs and does not answer: {error}")
    data = answer.get("data")
    data = data if isinstance(data, dict) else {}
    problems = data.get("problems")
    detail = "; ".join(str(problem) for problem in problems) if isinstance(problems, list) else ""
    health = str(data.get("status", "failing"))
    failure = answer.get("error")
    reason = str(failure.get("message")) if isinstance(failure, dict) else "it does not say why"
    return evolve(running, health=health, detail=detail or ("Healthy." if health == "ok" else reason))


def _await_decision(home: GatewayPaths, timeout: float) -> GatewayStatus:
    """Return the status once one that runs answers; raises GatewayError when it never does.

    One that does not answer may be just starting, or just be dying: neither is to be guessed at.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = status(home)
        if not found.running or found.health != "unreachable":
            return found
        if time.monotonic() > deadline:
            raise GatewayError(f"A gateway runs as process {found.pid} and does not answer; stop it first.")
        time.sleep(_POLL_SECONDS)


def _await_answer(home: GatewayPaths, child: subprocess.Popen[bytes], written: int, timeout: float) -> None:
    """Wait until the child answers; raises GatewayError when it ends first, or is too slow."""
    deadline = time.monotonic() + timeout
    while True:
        code = child.poll()
        if code is not None:
            lines = reversed(read_log_tail(home.log_file, written))
            refusal = next((line[len(REFUSAL) :] for line in lines if line.startswith(REFUSAL)), None)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise GatewayError(
                refusal or f"The gateway ended with {how} before it answered.{_tail(home.log_file, written)}"
            )
        record = PidFile.read(home.pid_file)
        if record is not None and record.pid == child.pid and record.port is not None:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                if _ask(f"{url_of(record.host, record.port)}/health/live").get("ok") is True:
                    return
        if time.monotonic() > deadline:
            raise GatewayError(f"The gateway did not answer within {timeout:g} s.{_tail(home.log_file, written)}")
        time.sleep(_POLL_SECONDS)


def _ask(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    # Not requests: its import takes longer than the gateway's whole start.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_REQUEST_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", parts.path)
        answer = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    return answer


def _tail(log: Path, written: int) -> str:
    lines = read_log_tail(log, written)[-_TAIL_LINES:]
    return f" The log is {log}." + "".join(f"\n    {line}" for line in lines)


def _await_end(record: PidFile, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while record.is_running():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    _reap()
    return True


def _end_child(child: subprocess.Popen[bytes], home: GatewayPaths) -> None:
    """End a gateway that did not come up, with its start gate, worker and MCP servers."""
    below = children_of(child.pid)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_LEFTOVER_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(child.pid)
            child.wait()
    wait_or_kill(below, _LEFTOVER_SECONDS)
    record = PidFile.read(home.pid_file)
    if record is not None and record.pid == child.pid:
        record.remove(home.pid_file)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # A gateway that a supervisor started may be in a group with others: then only itself.
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


_started: dict[int, subprocess.Popen[bytes]] = {}


def _reap() -> None:
    for pid, child in list(_started.items()):
        if child.poll() is not None:
            del _started[pid]
