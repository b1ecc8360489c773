"""Gates with their evidence: command or URL, result, and the end of the log."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from release_tasks.core.ids import is_valid_id
from release_tasks.core.printable import output_lines
from release_tasks.core.records import Check
from release_tasks.report.values import text, texts
from release_tasks.report.words import Meaning

__all__ = ["Gate", "gates_of", "tone_of_check"]

_MOST_GATES = 60
_LOG_BYTES = 64 << 10
_ALL_LOGS_BYTES = 512 << 10  # for the complete page, which must stay small enough for mail and phones
_TAIL_TEXT = 4 << 10
_LABELS = (
    ("url", "URL"),
    ("path", "File"),
    ("exitCode", "Exit code"),
    ("signal", "Signal"),
    ("httpStatus", "HTTP status"),
    ("attempts", "Requests"),
    ("outputBytes", "Output in bytes"),
    ("leftBehind", "Processes left behind"),
    ("logProblem", "Log"),
)
_LISTS = (("problems", "Problem"), ("degraded", "Degraded"), ("needs", "Needs"))


@frozen(kw_only=True)
class Log:
    """The end of a gate's log. ``problem`` is the reason why it cannot be read; ``size`` and ``shown`` are in bytes."""

    path: str
    text: str = ""
    size: int = 0
    shown: int = 0
    problem: str = ""


@frozen
class Gate:
    """The result of a gate with the end of its log."""

    check: Check
    log: Log | None

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Pairs of a label and a value that the gate recorded."""
        found = self.check.diagnostics
        facts = [(label, text(found[key], 300)) for key, label in _LABELS if found.get(key) is not None]
        return facts + [(label, item) for key, label in _LISTS for item in texts(found.get(key), most=10, limit=300)]

    @property
    def tail(self) -> list[str]:
        """The last lines of the gate's output, or of the HTTP response that it received."""
        lines = self.check.diagnostics.get("outputTail") or self.check.diagnostics.get("bodyTail")
        tail = texts(lines[-20:], most=20, limit=1000) if isinstance(lines, list) else []
        while sum(len(line) for line in tail) > _TAIL_TEXT:
            tail.pop(0)
        return tail


def gates_of(checks: Sequence[Check], logs: Path) -> list[Gate]:
    """Return the first gates of a release, in configured order; ``logs`` is the folder of its first attempt's logs."""
    left = _ALL_LOGS_BYTES
    gates = []
    for check in checks[:_MOST_GATES]:
        log = (
            _log(_folder_of(check, logs) / f"{check.id}.log", min(_LOG_BYTES, left)) if is_valid_id(check.id) else None
        )
        left -= log.shown if log else 0
        gates.append(Gate(check, log))
    return gates


def _folder_of(check: Check, logs: Path) -> Path:
    """Return the folder of the run that the check is from: each attempt to prepare one release has its own."""
    recorded = Path(str(check.diagnostics.get("logPath", ""))).parent.name
    return logs.with_name(recorded) if re.fullmatch(rf"{re.escape(logs.name)}-\d+", recorded) else logs


def tone_of_check(check: Check) -> Meaning:
    """Return the meaning of a gate's result for the release that it checked."""
    if check.status == "passed":
        return "good"
    if check.is_left_out and check.advisory:
        return "quiet"
    return "bad" if check.status == "failed" and not check.advisory else "warn"


def _log(path: Path, most: int) -> Log | None:
    """Return the last ``most`` bytes of a log; None when the gate has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return Log(path=str(path), problem="it is not a regular file")
            data = os.pread(fd, most, max(info.st_size - most, 0)) if most > 0 else b""
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Log(path=str(path), problem=error.strerror or str(error))
    if len(data) < info.st_size:
        data = data[data.find(b"\n") + 1 :]  # drop the first line, which is incomplete
    return Log(path=str(path), text="\n".join(output_lines(data)), size=info.st_size, shown=len(data))
