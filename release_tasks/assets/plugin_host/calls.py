"""Calls of an asset kind of another package, each in a process of its own that can be ended at any time.

In a thread it could not: one that never ends would go on writing, one that opens a database would drop the locks of
this process, and one that crashes would take a rollback with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageFailed
from release_tasks.core.printable import printable
from release_tasks.core.process.command import CommandProcess
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration

__all__ = ["KindCall", "KindFailed", "capture_copy", "check_copy", "restore_copy"]

# The search path of this process and not of its environment: what is found here must be found there.
_START = "import sys; sys.path[:] = sys.argv[1:]; from release_tasks.assets.plugin_host.child import main; main()"
_STEP = 0.05  # seconds
_GRACE = 0.5
_LONGEST = 1000  # characters of a sentence
_MOST_BYTES = 1 << 20  # of answers other than progress

Report = Callable[[int, int], None]


class KindFailed(StageFailed):
    """An asset kind did not do its work. ``is_state_bad``: it found the state bad, and is not itself to reported_as."""

    def __init__(self, message: str, *, is_state_bad: bool = False) -> None:
        super().__init__(message)
        self.is_state_bad = is_state_bad


@frozen(kw_only=True)
class KindCall:
    """Which asset kind is called for which asset. ``timeout`` is in seconds, for each call."""

    plugin: str
    key: str
    options: Mapping[str, Any]
    timeout: float


def capture_copy(call: KindCall, source: Path, copy: Path, report: Report = lambda done, total: None) -> None:
    """Let the asset kind take a copy; raises KindFailed, and whatever ``report`` raises to give it up.

    ``report`` is called many times a second, with the bytes done and in all, as far as the asset kind reports them.
    """
    _run(call, {"action": "capture", "source": str(source), "copy": str(copy)}, report)


def check_copy(call: KindCall, copy: Path, report: Report = lambda done, total: None) -> list[str]:
    """Return what the asset kind finds wrong with a copy, a sentence each; raises as ``capture_copy`` does."""
    return _run(call, {"action": "check", "copy": str(copy)}, report)


def restore_copy(call: KindCall, copy: Path, live: Path) -> None:
    """Let the asset kind bring ``live`` to the state of a copy; raises KindFailed, also when it offers no restore."""
    _run(call, {"action": "restore", "copy": str(copy), "source": str(live)}, lambda done, total: None)


def _run(call: KindCall, request: dict[str, Any], report: Report) -> list[str]:
    try:
        find_plugin(ASSETS, call.plugin)
    except PluginUnusable as error:
        raise KindFailed(f"{error.message}. Type: {error.next}") from error
    line = json.dumps({"plugin": call.plugin, "key": call.key, "options": dict(call.options), **request})
    try:
        process, orders = _start()
    except (OSError, ValueError) as error:
        raise KindFailed(f"no process could be started for the asset kind {call.plugin!r}: {error}") from error
    message = None
    with orders:
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code says why
                orders.write(line.encode() + b"\n")
            message = _answer(process, call, request["action"], report)
        finally:
            code = _end(process)
    if message is None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise KindFailed(f"the asset kind {call.plugin!r} ended in {request['action']} without a result ({how})")
    if "failed" in message:
        advice = f". Type: {message['next']}" if message.get("next") else ""
        raise KindFailed(_shown(message["failed"]) + advice, is_state_bad=bool(message.get("isJudged")))
    return [_shown(problem) for problem in message["problems"]]


def _start() -> tuple[CommandProcess, Any]:
    """Start the process; returns with it the stream that it takes its orders from and ends with."""
    path = [os.path.abspath(entry) for entry in sys.path]
    command = "exec " + shlex.join([sys.executable, "-c", _START, *path])
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin:
        try:
            process = CommandProcess(command, cwd=Path("/"), environment=os.environ, stdin=stdin)
            return process, os.fdopen(writing, "wb", buffering=0)
        except BaseException:
            os.close(writing)
            raise


def _answer(process: CommandProcess, call: KindCall, action: str, report: Report) -> dict[str, Any] | None:
    """Wait for the line that says how it ended; None when none will come. Raises KindFailed when it takes too long."""
    deadline = time.monotonic() + call.timeout
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
        if process.is_at_end or len(rest) > _MOST_BYTES:
            return None
        if time.monotonic() >= deadline:
            raise KindFailed(
                f"the asset kind {call.plugin!r} had no result in {action} after {show_duration(call.timeout)} and was "
                f"ended (release.assets.{call.key}.timeout)"
            )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}  # what the interpreter says when it cannot even begin
    return message if isinstance(message, dict) else {}


def _shown(text: str) -> str:
    shown = Redactor.from_environment(os.environ).redact_text(printable(text))
    return excerpt(" ".join(shown.split()), _LONGEST).rstrip(".")


def _end(process: CommandProcess) -> int:
    """End it with everything that it started, and return its exit code, negative for a signal."""
    if not process.is_at_end:
        process.signal(signal.SIGTERM)
    until = time.monotonic() + _GRACE
    while not process.has_exited() and time.monotonic() < until:
        process.read(_STEP / 5)
    process.kill_remaining(0.0)
    return process.reap()
