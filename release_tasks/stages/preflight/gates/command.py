"""Command gates: the command must exit with 0 within its timeout and leave no process running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from attrs import NOTHING, frozen

from release_tasks.core.options import option
from release_tasks.core.process.command import CommandProcess, CommandResult, search_path, signal_name, supervise
from release_tasks.core.process.output import OutputLog
from release_tasks.core.typed import quoted, typed
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict

__all__ = ["KIND", "CommandOptions"]

_TIMEOUT = 600.0


@frozen(kw_only=True)
class CommandOptions:
    """The keys of a command gate."""

    command: str = option("a shell command that must exit with 0", NOTHING)
    cwd: Path | None = option("working folder of the command; default: the project root")


def _check(context: GateContext) -> Verdict:
    """Run the command with ``/bin/sh -c`` and write its output to the gate's log."""
    options: CommandOptions = context.config.options
    command, cwd = options.command, options.cwd or context.project
    timeout = _TIMEOUT if context.config.timeout is None else context.config.timeout
    next_step = {"next": typed("gate.run", context.name)}
    environment = {**os.environ, **context.config.env}
    environment["PATH"] = search_path(environment)
    try:
        process = CommandProcess(command, cwd=cwd, environment=environment)
    except (OSError, ValueError) as error:
        if not cwd.is_dir():
            detail = f"the working folder {cwd} is missing"
            next_step = {"next": f"ls -ld {quoted(str(cwd))}"}
        else:
            detail = f"cannot be started: {getattr(error, 'strerror', None) or error}"
        return Verdict(passed=False, detail=detail, command=command, diagnostics=dict(next_step))
    log = OutputLog(context.log_path, context.redactor)
    result = supervise(process, log, timeout, context.cancelled)
    diagnostics = _diagnostics(result, log, context)
    if not result.succeeded:
        log_hint = "" if log.problem else f"  # full output: {quoted(str(context.log_path))}"
        diagnostics["next"] = next_step["next"] + log_hint
    detail = result.describe(command, timeout, log.tail())
    return Verdict(passed=result.succeeded, detail=detail, command=command, diagnostics=diagnostics)


def _diagnostics(result: CommandResult, log: OutputLog, context: GateContext) -> dict[str, Any]:
    diagnostics: dict[str, Any] = {}
    if not result.is_status_lost:
        is_signal = result.code < 0
        diagnostics["signal" if is_signal else "exitCode"] = signal_name(-result.code) if is_signal else result.code
    diagnostics["outputTail"] = log.tail()
    diagnostics["outputBytes"] = log.received
    if log.problem:
        diagnostics["logProblem"] = log.problem
    else:
        diagnostics["logPath"] = str(context.log_path)
    if result.left_behind:
        diagnostics["leftBehind"] = result.left_behind
    return diagnostics


KIND = GateKind(name="command", options=CommandOptions, check=_check, ends_itself=True)
