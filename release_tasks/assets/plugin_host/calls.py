"""Call a plugin's asset kind in a separate process, which can be killed at any time.

A thread would not do: a plugin that never returns would continue to write, a plugin that opens a database would release
the locks of this process, and a plugin that crashes would end the rollback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.clock import awake
from release_tasks.core.errors import StageFailed
from release_tasks.core.printable import printable
from release_tasks.core.process.command import CommandProcess
from release_tasks.core.process.python import function_line
from release_tasks.core.units import show_duration

__all__ = ["KindCall", "KindFailed", "capture_copy", "check_copy", "restore_copy"]

_STEP = 0.05  # seconds
_GRACE = 0.5
_MAX_MESSAGE = 1000  # characters
_MAX_ANSWER = 1 << 20  # bytes of an answer

Report = Callable[[int, int], None]


class KindFailed(StageFailed):
    """A plugin's asset kind failed. ``is_state_bad``: the plugin works, but it found the state damaged."""

    def __init__(self, message: str, *, is_state_bad: bool = False) -> None:
        super().__init__(message)
        self.is_state_bad = is_state_bad


@frozen(kw_only=True)
class KindCall:
    """The plugin's asset kind to call, and the asset to call it for. ``timeout`` is in seconds, for each call."""

    plugin: str
    key: str
    options: Mapping[str, Any]
    timeout: float


def capture_copy(call: KindCall, source: Path, copy: Path, report: Report = lambda done, total: None) -> None:
    """Let the asset kind make a copy. Raises KindFailed; an exception of ``report`` cancels the call and is raised.

    ``report`` is called many times a second with the done bytes and the total bytes that the asset kind reports.
    """
    _run(call, {"action": "capture", "source": str(source), "copy": str(copy)}, report)


def check_copy(call: KindCall, copy: Path, report: Report = lambda done, total: None) -> list[str]:
    """Return the problems that the asset kind finds in a copy, one message each; raises as ``capture_copy`` does."""
    return _run(call, {"action": "check", "copy": str(copy)}, report)


def restore_copy(call: KindCall, copy: Path, live: Path) -> None:
    """Let the asset kind restore ``live`` from a copy. Raises KindFailed, also for a kind without ``restore``."""
    _run(call, {"action": "restore", "copy": str(copy), "source": str(live)}, lambda done, total: None)


def _run(call: KindCall, request: dict[str, Any], report: Report) -> list[str]:
    try:
        find_plugin(ASSETS, call.plugin)
    except PluginUnusable as error:
        raise KindFailed(f"{error.message}. Type: {error.next}") from error
    line = json.dumps({"plugin": call.plugin, "key": call.key, "options": dict(call.options), **request})
    try:
        process, requests = _start()
    except (OSError, ValueError) as error:
        raise KindFailed(f"no process could be started for the asset kind {call.plugin!r}: {error}") from error
    message = None
    with requests:
        try:
            with contextlib.suppress(BrokenPipeError):  # the process has exited already; its exit code is the reason
                requests.write(line.encode() + b"\n")
            message = _answer(process, call, request["action"], report)
        finally:
            code = _stop(process)
    if message is None:
        status = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise KindFailed(f"the asset kind {call.plugin!r} exited in {request['action']} without a result ({status})")
    if "failed" in message:
        advice = f". Type: {message['next']}" if message.get("next") else ""
        raise KindFailed(_shown(message["failed"]) + advice, is_state_bad=bool(message.get("isStateBad")))
    return [_shown(problem) for problem in message["problems"]]


def _start() -> tuple[CommandProcess, Any]:
    """Start the process, and return it with the stream for requests; the process exits when the stream is closed."""
    # With the module search path of this process, not of its environment: both must find the same plugins.
    command = "exec " + shlex.join(function_line("release_tasks.assets.plugin_host.child"))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin:
        try:
            process = CommandProcess(command, cwd=Path("/"), environment=os.environ, stdin=stdin)
            return process, os.fdopen(writing, "wb", buffering=0)
        except BaseException:
            os.close(writing)
            raise


def _answer(process: CommandProcess, call: KindCall, action: str, report: Report) -> dict[str, Any] | None:
    """Wait for the result; return None when the process exits without one. Raises KindFailed after the timeout."""
    deadline = awake.now() + call.timeout
    rest = b""
    progress = (0, 0)
    while True:
        rest += process.read(_STEP)
        *lines, rest = rest.split(b"\n")
        answer = None
        for message in map(_parsed, lines):
            if "progress" in message:
                done, total = message["progress"]
                progress = (max(done, 0), max(done, total, 0))
            else:
                answer = message or answer
        report(*progress)
        if answer is not None:
            return answer
        if process.is_at_end or len(rest) > _MAX_ANSWER:
            return None
        if awake.now() >= deadline:
            raise KindFailed(
                f"the asset kind {call.plugin!r} had no result in {action} after {show_duration(call.timeout)} and was "
                f"stopped. To allow more time, raise release.assets.{call.key}.timeout"
            )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}  # an error message of the Python interpreter
    return message if isinstance(message, dict) else {}


def _shown(text: str) -> str:
    shown = printable(text)
    return excerpt_line(" ".join(shown.split()), _MAX_MESSAGE).rstrip(".")


def _stop(process: CommandProcess) -> int:
    """Stop the process and its children, and return its exit code, which is negative for a signal."""
    if not process.is_at_end:
        process.signal(signal.SIGTERM)
    deadline = awake.now() + _GRACE
    while not process.has_exited() and awake.now() < deadline:
        process.read(_STEP / 5)
    process.kill_remaining(0.0)
    return process.reap()
