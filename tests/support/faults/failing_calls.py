"""Stages in which one system call of choice fails: the process that runs them under strace, and how tests talk to it.

strace fails one call of each name that a process makes, that of a fixed number. A stage runs in a child of its own,
which counts from zero and first makes as many calls without effect as it takes for the N-th of the stage to be that
one. So one strace serves a thousand runs, and each costs little more than its stage.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw  # noqa: F401
import cattrs  # noqa: F401
import requests  # noqa: F401
from attrs import field, frozen

from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageError
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings
from tests.support.faults import stages
from tests.support.faults.stages import prepare

__all__ = ["CHANGING", "OPENING", "READING", "Ended", "FailingCalls", "why_not"]

# What a stage calls besides cannot fail (close), or is not about files.
CHANGING = (
    *("write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "syncfs", "rename", "renameat2", "unlink"),
    *("rmdir", "mkdir", "symlink", "chmod", "fchmod", "utimensat", "fchown", "lchown"),
)
OPENING = ("openat",)
READING = (
    *("read", "pread64", "getdents64", "newfstatat", "stat", "lstat", "fstat", "lseek", "readlinkat", "flock", "fcntl"),
    "statfs",
)
# fmt: off
_NUMBERS = {  # of Linux on x86-64
    "read": 0, "write": 1, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "pread64": 17, "pwrite64": 18,
    "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84,
    "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91, "fchown": 93, "lchown": 94, "statfs": 137,
    "getdents64": 217, "openat": 257, "newfstatat": 262, "readlinkat": 267, "utimensat": 280, "fallocate": 285,
    "syncfs": 306, "renameat2": 316,
}
# fmt: on
_THRESHOLD = 700  # more calls of one name than any stage makes


def why_not() -> str | None:
    """Say why calls cannot be made to fail here, or None."""
    if shutil.which("strace") is None:
        return "there is no strace (Debian: apt install strace)"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the numbers of the calls are those of Linux on x86-64"
    return None


@frozen(kw_only=True)
class Ended:
    """How a stage ended: its status or what it raised, what it said, and the call that strace failed, if it came."""

    told: str
    sentences: list[str] = field(factory=list)
    traceback: str = ""
    failed_call: str = ""
    calls: Counter[str] = field(factory=Counter)


class FailingCalls:
    """A process that forks a child for each stage, under an strace that fails calls of ``names`` with ``error``.

    ``job`` is run in the process itself first, so that every later child starts warm.
    """

    def __init__(
        self, error: str, names: Sequence[str], job: dict[str, Any], trace: Path, *, is_lasting: bool = False
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        command = [sys.executable, "-B", "-m", __name__, str(theirs.fileno())]
        places = [str(Path(__file__).absolute().parents[3]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        self.socket.send(json.dumps({**job, "here": True}).encode())
        ended = json.loads(self.socket.recv(1 << 20))
        assert "traceback" not in ended, ended["traceback"]
        trace.touch()
        self.lines = trace.open()
        command = ["strace", "-f", "-y", "-s", "0", "-o", str(trace), "-e", f"trace={','.join(names)}"]
        command += ["-e", "signal=none", "-p", str(self.process.pid)]
        for name in names:
            command += ["-e", f"inject={name}:error={error}:when={_THRESHOLD}{'+' if is_lasting else ''}"]
        self.tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.tracer.stderr is not None
        first = self.tracer.stderr.readline()
        assert "attached" in first, first

    def close(self) -> None:
        self.socket.close()
        self.process.wait(timeout=30)
        self.tracer.communicate(timeout=30)
        self.lines.close()

    def run(self, job: dict[str, Any], name: str | None = None, number: int = 0) -> Ended:
        """Run a stage, and fail its ``number``-th call of one name, if it makes so many."""
        return self._ask({**job, "name": name, "number": number})

    def _ask(self, job: dict[str, Any]) -> Ended:
        self.socket.send(json.dumps(job).encode())
        data = self.socket.recv(1 << 20)
        assert data, "the process that runs the stages has ended"
        answer = json.loads(data)
        calls: Counter[str] = Counter()
        failed = ""
        for line in self.lines.readlines():
            thread, _, call = line.partition(" ")
            if thread != str(answer["pid"]):
                continue
            if (found := re.match(r"\s*(\w+)\(", call)) is not None:  # not where an unfinished one is resumed
                calls[found[1]] += 1
            failed = failed or (call if "(INJECTED)" in call else "")
        return Ended(
            told=answer["told"],
            sentences=answer.get("sentences", []),
            traceback=answer.get("traceback", ""),
            failed_call=failed.strip(),
            calls=calls,
        )


@functools.cache
def _settings(raw: str, folder: Path) -> Settings:
    return load_settings({"release": json.loads(raw)}, folder)


def _rollback(settings: Settings) -> tuple[str, list[str]]:
    outcome = rollback(settings, RollbackRequest())
    return outcome.status, outcome.diagnostics


def _cut_rollback(settings: Settings, notes: int) -> tuple[str, list[str]]:
    """Begin a rollback and end the process, as a kill does, once the journal was rewritten so many times."""
    note = swap.Swap._note

    def noted(self: Any, step: Any) -> Any:
        nonlocal notes
        if notes == 0:
            os._exit(0)
        notes -= 1
        return note(self, step)

    swap.Swap._note = noted  # type: ignore[method-assign]
    return _rollback(settings)


def _recover(settings: Settings) -> tuple[str, list[str]]:
    report = recover(settings)
    return report.status, [report.detail]


def _prepare(settings: Settings, release_id: str) -> tuple[str, list[str]]:
    manifest = prepare(with_flags(settings, retention=2), stages.passed_preflight(), release_id)
    return manifest.status, manifest.diagnostics


_STAGES = {"rollback": _rollback, "cut rollback": _cut_rollback, "recover": _recover, "prepare": _prepare}


def _serve() -> None:
    """Answer JSON documents on the socket whose number is given, until it is closed.

    Not over a pipe: reads and writes of this process would count.
    """
    channel = socket.socket(fileno=int(sys.argv[1]))
    stages.make_serial()
    while data := channel.recv(1 << 16):
        job = json.loads(data)
        channel.send(json.dumps(_run(job) if job.get("here") else _run_in_child(job)).encode())


def _run_in_child(job: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            _fail_later(job["name"], job["number"])
            theirs.send(json.dumps(_run(job)).encode())
        finally:
            os._exit(0)
    theirs.close()
    data = b""
    with ours:
        while part := ours.recv(1 << 16):
            data += part
    os.waitpid(child, 0)
    return json.loads(data) if data else {"told": "ended without a word", "pid": child}


def _fail_later(name: str | None, number: int) -> None:
    """Make calls that fail by themselves, so many that the ``number``-th from here on reaches the threshold."""
    if name is None:
        return
    call, code = ctypes.CDLL(None).syscall, _NUMBERS[name]
    assert number < _THRESHOLD
    for _ in range(_THRESHOLD - number):
        call(code, -1, -1, 0, 0, 0)


def _run(job: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"pid": os.getpid()}
    try:
        settings = _settings(json.dumps(job["raw"]), Path(job["folder"]))
        told, sentences = _STAGES[job["stage"]](settings, **job["options"])
        return {**answer, "told": told, "sentences": sentences}
    except StageError as error:
        return {**answer, "told": type(error).__name__, "sentences": [error.message]}
    except BaseException as error:
        return {**answer, "told": repr(error), "traceback": traceback.format_exc()}


if __name__ == "__main__":
    _serve()
