"""The lookups of names in one run of a stage, and the same run stopped after some of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.support.faults.tracing import STRACE, Driver

__all__ = ["Ended", "Moment", "lookups", "run_within", "stopped_after"]

_SECONDS = 60.0  # for one run
_LINE = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<rest>.*)")
_RELATIVE = re.compile(r'\d+<(?P<folder>/[^>]*)>, "(?P<name>[^"/][^"]*)"')
_STOPPED = "stopped by SIGSTOP"


@frozen
class Moment:
    """The time after the ``number``-th call of one name, as strace counts the calls of the main thread."""

    name: str
    number: int
    what: str = ""

    def __str__(self) -> str:
        return f"after {self.name} {self.number} ({self.what})"


@frozen
class Ended:
    """How a run ended: ``code`` as from waitpid, and the status and sentences of the stage, or a traceback."""

    code: int
    status: str
    said: str
    traceback: str


def lookups(driver: Driver, job: dict[str, Any], folder: Path) -> list[Moment]:
    """Run a job and return all calls of its main thread that look up a name at or below ``folder``.

    Between two of them nothing is looked up, so an exchange of names at any other time has the effect of one after one
    of these.
    """
    trace = driver.scratch / "lookups"
    child = driver.start(job)
    with _tracer(child, "-y", "-s", "0", "-o", str(trace), "-e", "trace=%file"):
        driver.finish()
    counts: Counter[str] = Counter()
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        counts[match["name"]] += 1
        rest = _RELATIVE.sub(lambda each: f'"{each["folder"]}/{each["name"]}"', match["rest"])
        if str(folder) in rest:
            what = re.sub(r"\s+", " ", rest.replace(f"{folder}/", ""))[:100]
            found.append(Moment(match["name"], counts[match["name"]], what))
    return found


def stopped_after(driver: Driver, job: dict[str, Any], moments: list[Moment], act: Callable[[int], None]) -> Ended:
    """Run a job, stop it after each of at most two moments, and call ``act`` with 0 and 1 while it is stopped."""
    child = driver.start(job)
    options = ["-e", f"trace={','.join({moment.name for moment in moments})}", "-e", "signal=SIGSTOP", "-s", "0"]
    for inject in _injections(moments):
        options += ["-e", inject]
    stops = 0
    with _tracer(child, *options) as tracer, _deadline(child):
        driver.let_go()
        assert tracer.stderr is not None
        for line in tracer.stderr:
            if _STOPPED in line:
                try:
                    act(stops)
                finally:
                    stops += 1
                    if stops == len(moments):  # the rest of the run is faster without strace
                        tracer.terminate()
                        tracer.wait()
                    os.kill(child, signal.SIGCONT)
        return _ended(driver)


def run_within(driver: Driver, job: dict[str, Any]) -> Ended:
    """Run a job to its end, without strace; kill it when it hangs."""
    with _deadline(driver.start(job)):
        driver.let_go()
        return _ended(driver)


def _ended(driver: Driver) -> Ended:
    run = driver.ended()
    result = run.result or {}
    return Ended(run.code, result.get("status", ""), " ".join(result.get("said", [])), run.traceback)


def _injections(moments: list[Moment]) -> list[str]:
    first, last = moments[0], moments[-1]
    if len(moments) == 1 or first.name != last.name:
        return [f"inject={moment.name}:signal=SIGSTOP:when={moment.number}" for moment in moments]
    step = last.number - first.number
    return [f"inject={first.name}:signal=SIGSTOP:when={first.number}..{last.number}+{step}"]


@contextlib.contextmanager
def _tracer(child: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    assert STRACE
    tracer = subprocess.Popen([STRACE, *options, "-p", str(child)], stderr=subprocess.PIPE, text=True, errors="replace")
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    assert "attached" in first, first
    yield tracer
    tracer.communicate(timeout=30)


@contextlib.contextmanager
def _deadline(child: int) -> Iterator[None]:
    """Kill a run that hangs; the test then fails because of its exit code."""
    timer = threading.Timer(_SECONDS, os.kill, (child, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
