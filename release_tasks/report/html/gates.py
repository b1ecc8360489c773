"""Gates with their evidence: what was run or asked, what came of it, and the end of its log."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from release_tasks.core.ids import is_valid_id
from release_tasks.core.printable import output_lines
from release_tasks.core.records import Check
from release_tasks.report.html.notifications import text, texts
from release_tasks.report.html.page import Gate, Log, Tone

__all__ = ["MOST_GATES", "gates_of"]

MOST_GATES = 60
_LOG_BYTES = 64 << 10
_ALL_LOGS_BYTES = 512 << 10  # of the whole page: it is mailed, and opened on a phone
_TAIL_TEXT = 4 << 10
_LABELS = (
    ("url", "Asked"),
    ("path", "File"),
    ("exitCode", "Exit code"),
    ("signal", "Signal"),
    ("httpStatus", "HTTP status"),
    ("attempts", "Requests"),
    ("outputBytes", "Output in bytes"),
    ("leftBehind", "Processes left behind"),
    ("logProblem", "Log"),
)
_LISTS = (("problems", "Problem"), ("degraded", "Not well"), ("needs", "Needs"))


def gates_of(checks: Sequence[Check], logs: Path) -> list[Gate]:
    """Return the gates of a release, in configured order; ``logs`` is the folder that their logs lie in."""
    room = _ALL_LOGS_BYTES
    gates = []
    for check in checks[:MOST_GATES]:
        log = _log(logs / f"{check.id}.log", min(_LOG_BYTES, room)) if is_valid_id(check.id) else None
        room -= log.shown if log else 0
        gates.append(_gate(check, log))
    return gates


def _gate(check: Check, log: Log | None) -> Gate:
    told = check.diagnostics
    word, tone = _result(check)
    return Gate(
        id=text(check.id, 128),
        subsystem=text(check.subsystem, 128),
        word=word,
        tone=tone,
        detail=text(check.detail),
        seconds=check.duration_ms / 1000,
        is_advisory=check.advisory,
        command=text(check.command) if check.command is not None else None,
        facts=_facts(told),
        tail=_tail(told.get("outputTail") or told.get("bodyTail")),
        next=text(told["next"]) if told.get("next") else None,
        log=log,
    )


def _result(check: Check) -> tuple[str, Tone]:
    if check.is_left_out:
        return "left out", "quiet" if check.advisory else "warn"
    if check.status == "passed":
        return "passed", "good"
    if check.advisory:
        return check.status, "warn"
    return check.status, "bad" if check.status == "failed" else "warn"


def _facts(told: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [(label, text(told[key], 300)) for key, label in _LABELS if told.get(key) is not None]
    return facts + [(label, item) for key, label in _LISTS for item in texts(told.get(key), most=10, limit=300)]


def _tail(lines: Any) -> list[str]:
    tail = texts(lines[-20:], most=20, limit=1000) if isinstance(lines, list) else []
    while sum(len(line) for line in tail) > _TAIL_TEXT:
        tail.pop(0)
    return tail


def _log(path: Path, room: int) -> Log | None:
    """Return the last ``room`` bytes of a log; None when the gate has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Log(path=str(path), problem=error.strerror or str(error))
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return Log(path=str(path), problem="it is no file")
        data = os.pread(fd, room, max(info.st_size - room, 0)) if room > 0 else b""
    except OSError as error:
        return Log(path=str(path), problem=error.strerror or str(error))
    finally:
        os.close(fd)
    if len(data) < info.st_size:
        data = data[data.find(b"\n") + 1 :]  # a line that begins in its middle misleads
    return Log(path=str(path), text="\n".join(output_lines(data)), size=info.st_size, shown=len(data))
