"""A gateway in the background: start, stop, status."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, frozen

from release_tasks.config.schema import PairingConfig
from release_tasks.core.clock import LONGEST_GAP, AwakeClock, awake
from release_tasks.core.process.find import children_of, wait_or_kill
from release_tasks.core.process.output import read_log_tail
from release_tasks.core.process.python import module_line
from release_tasks.core.typed import typed
from release_tasks.gateway.errors import REFUSAL, GatewayError
from release_tasks.gateway.network import base_url, bind, check_host
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile

__all__ = ["REQUEST_SECONDS", "GatewayStatus", "start", "status", "stop"]

_POLL_SECONDS = 0.02
REQUEST_SECONDS = 3.0  # of a status request; tests shorten it
_LEFTOVER_SECONDS = 1.5
_TAIL_LINES = 10
_MAX_LOG_BYTES = 8 * 1024 * 1024
_MAX_RESPONSE_BYTES = 1024 * 1024


@frozen
class GatewayStatus:
    """The status of a gateway.

    ``health`` is ``ok``, ``degraded``, ``failing``, ``unreachable`` (running, but no response) or ``stopped``.
    ``detail`` is a description for people. ``since`` is RFC 3339.
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
        """The base URL of the gateway."""
        return None if self.host is None or self.port is None else base_url(self.host, self.port)


def start(
    paths: GatewayPaths,
    *,
    host: str = "127.0.0.1",
    port: int = 3100,
    release_root: Path | None = None,
    pairing: PairingConfig | None = None,
    start_gate: list[str] | None = None,
    allow_remote: bool = False,
    project: Path | None = None,
    timeout: float = 15.0,
) -> GatewayStatus:
    """Start the gateway in its own session and return when it responds; port 0 selects a free port.

    Relative commands of MCP servers start in ``project``, by default the current folder. If a gateway already runs in
    the root folder, returns its status. ``start_gate`` is a command that must succeed before the gateway opens any file
    or port. Raises GatewayError, with the end of the log, when the gateway does not respond within ``timeout`` seconds;
    then no process is left.
    """
    check_host(host, allow_remote=allow_remote)
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise GatewayError("The embedded gateway needs the extra: pip install 'release-tasks[gateway]'")
    current = _wait_until_certain(paths, timeout)
    if current.running:
        return evolve(current, detail=f"It was already running. {current.detail}")
    bind(host, port).close()  # raises GatewayError before a process is started
    command = module_line("release_tasks.gateway", "--root", str(paths.root.absolute()))
    command += ["--host", host, "--port", str(port)]
    command += ["--allow-remote"] if allow_remote else []
    command += ["--release-root", str(release_root.absolute())] if release_root else []
    if pairing:
        command += ["--credentials", str(pairing.credentials.absolute()), "--pairing-ttl", str(pairing.ttl)]
        command += ["--pairing-max-pending", str(pairing.max_pending)]
    command += ["--start-gate", *start_gate] if start_gate else []
    try:
        paths.make_root()
        with contextlib.suppress(FileNotFoundError):
            if paths.log_file.stat().st_size > _MAX_LOG_BYTES:
                paths.log_file.replace(paths.log_file.with_suffix(".log.1"))
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with os.fdopen(os.open(paths.log_file, log_flags, 0o600), "ab") as log:
            log_offset = os.fstat(log.fileno()).st_size
            child = subprocess.Popen(
                command, cwd=project, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
    except OSError as error:
        raise GatewayError(f"The gateway cannot start: {error}.") from error
    try:
        _wait_until_live(paths, child, log_offset, timeout)
    except BaseException as error:
        _stop_child(child, paths)
        current = status(paths)
        if isinstance(error, GatewayError) and current.running:
            return evolve(current, detail=f"Another process started it first. {current.detail}")
        raise
    # Stored until the child ends: Popen warns when it is garbage-collected while its process runs, and a child without
    # wait() stays a zombie.
    _started[child.pid] = child
    return status(paths)


def stop(paths: GatewayPaths, *, timeout: float = 10.0) -> GatewayStatus:
    """Stop the gateway and every process that it started; kill it after ``timeout`` seconds.

    A gateway that does not run is not an error. Raises GatewayError without permission to stop it.
    """
    _reap()
    record = PidFile.read(paths.pid_file)
    if record is None or not record.is_running():
        if record is not None:
            record.remove(paths.pid_file)
        return GatewayStatus(False, "stopped", "It was not running.")
    children = children_of(record.pid)
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(record.pid, signal.SIGTERM)
        except PermissionError as error:
            raise GatewayError(
                f"The gateway (process {record.pid}) belongs to another user. Stop it as that user."
            ) from error
    detail = "Stopped."
    if not _wait_for_end(record, timeout):
        # Listed again: the gateway may have started another MCP server.
        children = [*children, *children_of(record.pid)]
        _kill_group(record.pid)
        _wait_for_end(record, timeout)
        detail = f"It did not stop within {timeout:g} s and was killed."
    wait_or_kill(children, _LEFTOVER_SECONDS)
    record.remove(paths.pid_file)
    return GatewayStatus(False, "stopped", detail)


def status(paths: GatewayPaths) -> GatewayStatus:
    """Return whether the gateway runs, its address and start time, and its health."""
    _reap()
    record = PidFile.read(paths.pid_file)
    if record is None or not record.is_running():
        stale = " The pid file is stale." if paths.pid_file.exists() else ""
        return GatewayStatus(False, "stopped", f"Not running.{stale}")
    running = GatewayStatus(True, "unreachable", "Starting.", record.pid, record.host, record.port, record.started_at)
    if running.url is None:
        return running
    try:
        response = _get_json(f"{running.url}/health", REQUEST_SECONDS)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return evolve(running, detail=f"It runs but does not respond: {error}")
    data = response.get("data")
    data = data if isinstance(data, dict) else {}
    problems = data.get("problems")
    detail = "; ".join(str(problem) for problem in problems) if isinstance(problems, list) else ""
    health = str(data.get("status", "failing"))
    failure = response.get("error")
    reason = str(failure.get("message")) if isinstance(failure, dict) else "unknown reason"
    return evolve(running, health=health, detail=detail or ("Healthy." if health == "ok" else reason))


def _wait_until_certain(paths: GatewayPaths, timeout: float) -> GatewayStatus:
    """Return the status when the gateway responds or does not run; raises GatewayError after ``timeout`` seconds.

    A running gateway without a response may be starting or stopping.
    """
    clock = AwakeClock(longest_gap=REQUEST_SECONDS + LONGEST_GAP)  # a status request is longer than the usual look
    deadline = clock.now() + timeout
    while True:
        current = status(paths)
        if not current.running or current.health != "unreachable":
            return current
        if clock.now() > deadline:
            raise GatewayError(
                f"A gateway runs as process {current.pid} but does not respond. To stop it, run "
                f"`{typed('gateway.stop', '--root', paths.root)}`."
            )
        time.sleep(_POLL_SECONDS)


def _wait_until_live(paths: GatewayPaths, child: subprocess.Popen[bytes], log_offset: int, timeout: float) -> None:
    """Wait until the child responds; raises GatewayError when it ends first or after ``timeout`` seconds."""
    deadline = awake.now() + timeout
    while True:
        code = child.poll()
        if code is not None:
            lines = reversed(read_log_tail(paths.log_file, log_offset))
            refusal = next((line[len(REFUSAL) :] for line in lines if line.startswith(REFUSAL)), None)
            reason = f"signal {-code}" if code < 0 else f"exit code {code}"
            if refusal is not None:
                raise GatewayError(refusal)
            raise _ended(f"The gateway ended with {reason} before it responded.", paths.log_file, log_offset)
        record = PidFile.read(paths.pid_file)
        if record is not None and record.pid == child.pid and record.port is not None:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                if _get_json(f"{base_url(record.host, record.port)}/health/live", LONGEST_GAP).get("ok") is True:
                    return
        if awake.now() > deadline:
            raise _ended(f"The gateway did not respond within {timeout:g} s.", paths.log_file, log_offset)
        time.sleep(_POLL_SECONDS)


def _get_json(url: str, timeout: float) -> dict[str, Any]:
    parts = urlsplit(url)
    # Not requests: its import takes longer than the start of the gateway.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", parts.path)
        response = json.loads(connection.getresponse().read(_MAX_RESPONSE_BYTES))
    if not isinstance(response, dict):
        raise ValueError("the response is not a JSON object")
    return response


def _ended(message: str, log: Path, offset: int) -> GatewayError:
    return GatewayError(f"{message} The log is {log}.", read_log_tail(log, offset)[-_TAIL_LINES:])


def _wait_for_end(record: PidFile, timeout: float) -> bool:
    deadline = awake.now() + timeout
    while record.is_running():
        if awake.now() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    _reap()
    return True


def _stop_child(child: subprocess.Popen[bytes], paths: GatewayPaths) -> None:
    """Stop a gateway that did not start, with its start gate, worker and MCP servers."""
    children = children_of(child.pid)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_LEFTOVER_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(child.pid)
            child.wait()
    wait_or_kill(children, _LEFTOVER_SECONDS)
    record = PidFile.read(paths.pid_file)
    if record is not None and record.pid == child.pid:
        record.remove(paths.pid_file)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Under a supervisor, the gateway may share its process group with other processes.
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


_started: dict[int, subprocess.Popen[bytes]] = {}


def _reap() -> None:
    for pid, child in list(_started.items()):
        if child.poll() is not None:
            del _started[pid]
