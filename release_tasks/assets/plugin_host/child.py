"""The process that an asset kind of another package runs in; its call comes as one line on stdin.

It answers in lines of JSON: how far it is, then how it ended. It ends with its parent, whatever the plugin does.
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
    """Carry out one call and end."""
    request, answers = _own_ends()
    try:
        _answer(answers, {"problems": _carry_out(request, answers)})
    except PluginUnusable as error:
        _answer(answers, {"failed": error.message, "next": error.next})
    except PluginError as error:
        _answer(answers, {"failed": error.message, "isJudged": True})
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        try:
            name = str(find_plugin(ASSETS, request["plugin"]))
        except PluginUnusable:
            name = f"the asset kind {request['plugin']!r}"
        _answer(answers, {"failed": f"{name} broke in {request['action']}: {describe_exception(error)}{at}"})
    os._exit(0)  # does not wait for threads that the plugin left


def _own_ends() -> tuple[dict[str, Any], int]:
    """Read the request, and keep what the plugin must not touch: it gets no input, and its prints go nowhere."""
    orders, answers = os.dup(0), os.dup(1)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(orders, 1 << 16)
        if not part:
            os._exit(1)
        line += part
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)

    def end_with_parent() -> None:
        while os.read(orders, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return json.loads(line), answers


def _carry_out(request: dict[str, Any], answers: int) -> list[str]:
    cancelled = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    plugin = find_plugin(ASSETS, request["plugin"])
    kind = _loaded(plugin)
    said = 0.0

    def report(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _REPORT_INTERVAL or done >= total:
            said = now
            _answer(answers, {"progress": [int(done), int(total)]})

    context = AssetContext(key=request["key"], options=request["options"], cancelled=cancelled, report=report)
    copy = Path(request["copy"])
    if request["action"] == "check":
        found = kind.check(copy, context)
        if not isinstance(found, (list, tuple)) or not all(isinstance(problem, str) for problem in found):
            expected = f"check returned {type(found).__name__}, expected a list of texts"
            raise PluginUnusable(f"{plugin}: {expected}", plugin.ask)
        return list(found)
    source = Path(request["source"])
    if request["action"] == "restore":
        if not callable(getattr(kind, "restore", None)):
            raise PluginUnusable(f"{plugin} has no function restore ({plugin.point.value})", plugin.ask)
        kind.restore(copy, source, context)
        return []
    if stat.S_ISDIR(os.lstat(source).st_mode) != (kind.form == "directory"):
        words = {"file": "a file", "directory": "a folder"}
        raise PluginError(f"{plugin} captures {words[kind.form]}, and {source} is none")
    kind.capture(source, copy, context)
    return []


def _loaded(plugin: Plugin) -> Any:
    kind = plugin.load()
    if isinstance(kind, type):
        kind = kind()
    value = plugin.point.value
    if getattr(kind, "form", None) not in ("file", "directory"):
        raise PluginUnusable(f"{plugin} has no form that is 'file' or 'directory' ({value})", plugin.ask)
    for name in ("capture", "check"):
        if not callable(getattr(kind, name, None)):
            raise PluginUnusable(f"{plugin} has no function {name} ({value})", plugin.ask)
    return kind


def _answer(answers: int, message: dict[str, Any]) -> None:
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[os.write(answers, line) :]
