"""Runs stages for the fault tests, each in a child that has all imports done already.

Run with ``python -m``. Reads one JSON object a line from stdin, forks, prints the child's pid, lets the child start at
the next line, and prints how it ended. A child costs milliseconds; a new interpreter costs half a second.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw  # noqa: F401
import cattrs  # noqa: F401
import requests  # noqa: F401

from release_tasks.core import durable
from release_tasks.stages.rollback import staging
from tests.support.faults import stages
from tests.support.faults.mutants import apply_mutant
from tests.support.faults.replace import replace


def main() -> None:
    """Serve until stdin is closed."""
    for line in sys.stdin:
        job = json.loads(line)
        if job.get("here"):
            # Once in this process, so that every later child inherits what is compiled at first use.
            stages.STAGES[job["stage"]](job["raw"], Path(job["folder"]), **job.get("options", {}))
            print("done", flush=True)
            continue
        start, end = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            _run(job, start[0], end[1], close=(start[1], end[0]))
        os.close(start[0])
        os.close(end[1])
        print(child, flush=True)
        sys.stdin.readline()
        os.write(start[1], b"g")
        os.close(start[1])
        with os.fdopen(end[0], "rb") as pipe:
            report = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, **(json.loads(report) if report else {})}), flush=True)


def _run(job: dict[str, Any], start: int, end: int, close: tuple[int, int]) -> None:
    code = 1
    try:
        for descriptor in close:
            os.close(descriptor)
        flushes = apply_mutant(job.get("mutant"))
        if job.get("many") is not None:
            replace(durable, "SYNCFS_THRESHOLD", job["many"])
        if job.get("is_unforeseen"):
            replace(staging, "require_replaceable", lambda *_, **__: None)
        if job.get("serial", True):
            stages.make_serial()
        stage: Callable[..., Any] = stages.STAGES[job["stage"]]
        os.read(start, 1)
        result = stage(job["raw"], Path(job["folder"]), **job.get("options", {}))
        _report(end, {"result": result, "flushes": flushes.seen})
        code = 0
    except BaseException:
        _report(end, {"traceback": traceback.format_exc()})
    finally:
        os._exit(code)


def _report(pipe: int, report: dict[str, Any]) -> None:
    with os.fdopen(os.dup(pipe), "wb") as file:
        file.write(json.dumps(report).encode())


if __name__ == "__main__":
    main()
