"""Stages in which one chosen system call fails: the process that runs them under strace, and its client.

strace fails the call number T of each name in each process, where T is fixed. Each stage runs in a child, where the
count starts at zero. The child first makes T - N calls without effect, so that the N-th call of the stage fails. One
strace therefore serves a thousand runs.
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
from collections.abc import Callable, Sequence
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
from release_tasks.stages.rollback.journal import write_journal
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings
from tests.support.crash import call_at
from tests.support.faults import stages
from tests.support.faults.replace import replace
from tests.support.faults.stages import prepare

__all__ = ["CHANGING", "OPENING", "READING", "Ended", "FailingCalls", "why_not"]

# The other calls of a stage cannot fail (close) or do not concern files.
CHANGING = (
    *("write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "syncfs", "rename", "renameat2", "unlink"),
    *("rmdir", "mkdir", "symlink", "chmod", "fchmod", "utimensat", "fchown", "lchown"),
    *("renameat", "unlinkat", "mkdirat", "symlinkat", "fchownat"),
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
    "getdents64": 217, "openat": 257, "mkdirat": 258, "fchownat": 260, "newfstatat": 262, "unlinkat": 263,
    "renameat": 264, "symlinkat": 266, "readlinkat": 267, "utimensat": 280, "fallocate": 285,
    "syncfs": 306, "renameat2": 316,
}
# fmt: on
_THRESHOLD = 2000  # more calls of one name than any stage makes


def why_not() -> str | None:
    """Return why calls cannot be made to fail on this machine, or None."""
    if shutil.which("strace") is None:
        return "there is no strace (Debian: apt install strace)"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the numbers of the calls are those of Linux on x86-64"
    return None


@frozen(kw_only=True)
class Ended:
    """How a stage ended.

    ``result`` is its status or the name of its error; ``failed_call`` is empty when strace failed no call.
    """

    result: str
    messages: list[str] = field(factory=list)
    traceback: str = ""
    failed_call: str = ""
    calls: Counter[str] = field(factory=Counter)


class FailingCalls:
    """A process that forks a child for each stage, under an strace that fails calls of ``names`` with ``error``.

    ``job`` runs in the process itself first, so that every later child has all modules loaded.
    """

    def __init__(
        self, error: str, names: Sequence[str], job: dict[str, Any], trace: Path, *, is_lasting: bool = False
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        command = [sys.executable, "-B", "-m", __name__, str(theirs.fileno())]
        paths = [str(Path(__file__).absolute().parents[3]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
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
        """Run a stage and fail its ``number``-th call of one name, if it makes that many."""
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
            if (found := re.match(r"\s*(\w+)\(", call)) is not None:  # no match where strace resumes an unfinished call
                calls[found[1]] += 1
            failed = failed or (call if "(INJECTED)" in call else "")
        assert max(calls.values(), default=0) < _THRESHOLD or job.get("number"), calls.most_common(1)
        return Ended(
            result=answer["result"],
            messages=answer.get("messages", []),
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


def _killed_rollback(settings: Settings, journal_writes: int) -> tuple[str, list[str]]:
    """Start a rollback and end the process, as SIGKILL does, after so many journal writes of its swap."""
    replace(swap, "write_journal", call_at(journal_writes + 1, write_journal, lambda: os._exit(0)))
    return _rollback(settings)


def _recover(settings: Settings) -> tuple[str, list[str]]:
    report = recover(settings)
    return report.status, [report.detail]


def _prepare(settings: Settings, release_id: str) -> tuple[str, list[str]]:
    manifest = prepare(with_flags(settings, retention=2), stages.passed_preflight(), release_id)
    return manifest.status, manifest.diagnostics


_STAGES: dict[str, Callable[..., tuple[str, list[str]]]] = {
    "rollback": _rollback,
    "killed rollback": _killed_rollback,
    "recover": _recover,
    "prepare": _prepare,
}


def _serve() -> None:
    """Answer JSON documents on the socket with the given descriptor, until it is closed.

    A pipe does not serve: strace would count the reads and writes of this process.
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
    return json.loads(data) if data else {"result": "ended without an answer", "pid": child}


def _fail_later(name: str | None, number: int) -> None:
    """Make calls without effect until the ``number``-th call from here on reaches the threshold."""
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
        result, messages = _STAGES[job["stage"]](settings, **job["options"])
        return {**answer, "result": result, "messages": messages}
    except StageError as error:
        return {**answer, "result": type(error).__name__, "messages": [error.message]}
    except BaseException as error:
        return {**answer, "result": repr(error), "traceback": traceback.format_exc()}


if __name__ == "__main__":
    _serve()
