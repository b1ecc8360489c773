"""Gates that run a command: it must end with exit code 0, in time, and leave nothing running."""

from __future__ import annotations

import os
import re
import shlex
import signal
import threading
import time
from typing import Any

from attrs import frozen

from release_tasks.config.values import show_duration
from release_tasks.environment import search_path
from release_tasks.preflight.gate import GateContext, Verdict
from release_tasks.preflight.output import OutputLog
from release_tasks.preflight.processes import CommandProcess

__all__ = ["check_command"]

_TIMEOUT = 600.0
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_GRACE_CANCELLED = 0.5
_PATIENCE = 0.5  # for what the command left behind
_STEP = 0.05
_READS_TO_DRAIN = 8  # empties a pipe that nobody fills any more
_NOT_FOUND = re.compile(r"([^\s:'\"\u2018]+)['\"\u2019]?: (?:(?:command )?not found|No such file or directory)$")
_NOT_EXECUTABLE = re.compile(r"([^\s:]+): (?:Permission denied|[Cc]annot execute.*|Exec format error)$")


@frozen(kw_only=True)
class _Run:
    """How a command ended. ``code`` is negative for a signal, ``left_behind`` counts processes."""

    code: int
    is_timed_out: bool
    is_cancelled: bool
    is_status_lost: bool
    is_output_held: bool
    left_behind: int


def check_command(context: GateContext) -> Verdict:
    """Run the gate's command with ``/bin/sh -c``; its output goes to the gate's log."""
    config = context.config
    command = config.command or ""
    timeout = _TIMEOUT if config.timeout is None else config.timeout
    cwd = config.cwd or context.settings.project
    again = {"next": f"inv gate.run {context.name}"}
    try:
        process = CommandProcess(command, cwd=cwd, environment=_environment(context))
    except (OSError, ValueError) as error:
        if not cwd.is_dir():
            detail = f"the working folder {cwd} is missing"
            again = {"next": f"ls -ld {shlex.quote(str(cwd))}"}
        else:
            detail = f"cannot be started: {getattr(error, 'strerror', None) or error}"
        return Verdict(passed=False, detail=detail, command=command, diagnostics=dict(again))
    try:
        log = OutputLog(context.log_path, context.redactor)
        run = _supervise(process, log, timeout, context.cancelled)
    finally:
        process.end_rest(0.0)
        process.reap()
    diagnostics = _diagnostics(run, log, context)
    passed = run.code == 0 and not (run.is_timed_out or run.is_cancelled or run.is_status_lost)
    if not passed:
        where = "" if log.problem else f"  # full output: {shlex.quote(str(context.log_path))}"
        diagnostics["next"] = again["next"] + where
    detail = _outcome(run, command, timeout, log.tail()) + _remarks(run)
    return Verdict(passed=passed, detail=detail, command=command, diagnostics=diagnostics)


def _environment(context: GateContext) -> dict[str, str]:
    environment = {**os.environ, **context.config.env}
    environment["PATH"] = search_path(environment)
    return environment


def _supervise(process: CommandProcess, log: OutputLog, timeout: float, cancelled: threading.Event) -> _Run:
    is_timed_out = is_cancelled = False
    deadline = time.monotonic() + timeout
    patience_ends: float | None = None
    kill_at: float | None = None
    while True:
        log.write(process.read(_STEP if not process.is_at_end else _STEP / 5))
        now = time.monotonic()
        if process.has_exited():
            patience_ends = patience_ends or now + _PATIENCE
            if process.is_at_end or now >= patience_ends:
                break
        elif kill_at is None:
            is_cancelled = cancelled.is_set()
            is_timed_out = not is_cancelled and now >= deadline
            if is_cancelled or is_timed_out:
                process.signal(signal.SIGTERM)
                kill_at = now + (_GRACE_CANCELLED if is_cancelled else _GRACE)
        elif now >= kill_at:
            break
    is_stopped = is_timed_out or is_cancelled
    patience = 0.0 if is_stopped else max((patience_ends or 0.0) - time.monotonic(), 0.0)
    left_behind = process.end_rest(patience)
    for _ in range(_READS_TO_DRAIN):
        log.write(process.read(0.0))
    log.close()
    return _Run(
        code=process.reap(),
        is_timed_out=is_timed_out,
        is_cancelled=is_cancelled,
        is_status_lost=process.is_status_lost,
        is_output_held=not process.is_at_end,
        left_behind=0 if is_stopped else left_behind,
    )


def _outcome(run: _Run, command: str, timeout: float, tail: list[str]) -> str:
    if run.is_cancelled:
        return "stopped before it had a result"
    if run.is_timed_out:
        return f"no result after {show_duration(timeout)} (timeout); it was ended"
    if run.is_status_lost:
        return "its exit code was lost, because this process ignores SIGCHLD"
    if run.code < 0:
        return f"ended by {_signal_name(-run.code)}"
    if run.code == 127:
        return f"command not found: {_named_in(_NOT_FOUND, tail, command)} (exit code 127)"
    if run.code == 126:
        return f"cannot be executed: {_named_in(_NOT_EXECUTABLE, tail, command)} (exit code 126)"
    if 128 < run.code < 128 + 32:
        return f"exit code {run.code}, as after {_signal_name(run.code - 128)}"
    return f"exit code {run.code}"


def _remarks(run: _Run) -> str:
    remarks = ""
    if run.left_behind:
        processes = "1 process" if run.left_behind == 1 else f"{run.left_behind} processes"
        remarks += f"; it left {processes} running, ended now"
    if run.is_output_held:
        remarks += "; something it started still holds its output open"
    return remarks


def _diagnostics(run: _Run, log: OutputLog, context: GateContext) -> dict[str, Any]:
    diagnostics: dict[str, Any] = {}
    if not run.is_status_lost:
        is_signal = run.code < 0
        diagnostics["signal" if is_signal else "exitCode"] = _signal_name(-run.code) if is_signal else run.code
    diagnostics["outputTail"] = log.tail()
    diagnostics["outputBytes"] = log.received
    if log.problem:
        diagnostics["logProblem"] = log.problem
    else:
        diagnostics["logPath"] = str(context.log_path)
    if run.left_behind:
        diagnostics["leftBehind"] = run.left_behind
    return diagnostics


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _named_in(pattern: re.Pattern[str], tail: list[str], command: str) -> str:
    """Return the program that the shell complains about, or else the command's first word."""
    for line in reversed(tail):
        if match := pattern.search(line):
            return match[1]
    words = command.split()
    return words[0] if words else command
