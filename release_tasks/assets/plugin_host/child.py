"""The process that runs a plugin's asset kind. It reads the call as one line from stdin.

The process answers with lines of JSON: progress, then one result. It exits when its parent exits, in any case.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from release_tasks.assets.plugin_host.contract import AssetContext
from release_tasks.assets.plugin_host.lookup import ASSETS, Plugin, PluginUnusable, describe_exception, find_plugin
from release_tasks.core.errors import PluginError

__all__ = ["main"]

_REPORT_INTERVAL = 0.05  # seconds


def main() -> None:
    """Run one call and exit."""
    request, answers = _take_streams()
    try:
        _answer(answers, {"problems": _run_call(request, answers)})
    except PluginUnusable as error:
        _answer(answers, {"failed": error.message, "next": error.next})
    except PluginError as error:
        _answer(answers, {"failed": error.message, "isStateBad": True})
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        try:
            name = str(find_plugin(ASSETS, request["plugin"]))
        except PluginUnusable:
            name = f"the asset kind {request['plugin']!r}"
        _answer(answers, {"failed": f"{name} failed in {request['action']}: {describe_exception(error)}{at}"})
    os._exit(0)  # does not wait for threads of the plugin


def _take_streams() -> tuple[dict[str, Any], int]:
    """Read the request, return it with the descriptor for answers, and give the plugin /dev/null for its streams."""
    requests, answers = os.dup(0), os.dup(1)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(requests, 1 << 16)
        if not part:
            os._exit(1)
        line += part
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(devnull, number)

    def exit_with_parent() -> None:
        while os.read(requests, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    return json.loads(line), answers


def _run_call(request: dict[str, Any], answers: int) -> list[str]:
    cancelled = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    plugin = find_plugin(ASSETS, request["plugin"])
    kind = _load_kind(plugin)
    reported_at = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        now = time.monotonic()
        if now - reported_at >= _REPORT_INTERVAL or done >= total:
            reported_at = now
            _answer(answers, {"progress": [int(done), int(total)]})

    context = AssetContext(key=request["key"], options=request["options"], cancelled=cancelled, report=report)
    copy = Path(request["copy"])
    if request["action"] == "check":
        problems = kind.check(copy, context)
        if not isinstance(problems, (list, tuple)) or not all(isinstance(problem, str) for problem in problems):
            expected = f"check returned {type(problems).__name__}, expected a list of texts"
            raise PluginUnusable(f"{plugin}: {expected}", plugin.show_command)
        return list(problems)
    source = Path(request["source"])
    if request["action"] == "restore":
        if not callable(getattr(kind, "restore", None)):
            raise PluginUnusable(f"{plugin} has no function restore ({plugin.point.value})", plugin.show_command)
        kind.restore(copy, source, context)
        return []
    if stat.S_ISDIR(os.lstat(source).st_mode) != (kind.form == "directory"):
        words = {"file": "a file", "directory": "a folder"}
        raise PluginError(f"{plugin} captures {words[kind.form]}, but {source} is not {words[kind.form]}")
    kind.capture(source, copy, context)
    return []


def _load_kind(plugin: Plugin) -> Any:
    kind = plugin.load()
    if isinstance(kind, type):
        kind = kind()
    value = plugin.point.value
    if getattr(kind, "form", None) not in ("file", "directory"):
        raise PluginUnusable(f"{plugin}: its form should be 'file' or 'directory' ({value})", plugin.show_command)
    for name in ("capture", "check"):
        if not callable(getattr(kind, name, None)):
            raise PluginUnusable(f"{plugin} has no function {name} ({value})", plugin.show_command)
    return kind


def _answer(answers: int, message: dict[str, Any]) -> None:
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[os.write(answers, line) :]
