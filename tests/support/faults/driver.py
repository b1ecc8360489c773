"""Runs stages for the fault tests, each in a child that has everything imported already.

Started as a script. Takes one JSON object a line on stdin, forks, prints the child's pid, lets the child begin at the
next line, and prints how it ended. A child costs milliseconds, where a fresh interpreter costs half a second.
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
from tests.support.faults import stages
from tests.support.faults.mutants import apply_mutant


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        job = json.loads(line)
        if job.get("here"):
            # Once in this process: what is compiled at first use is ready in every child from then on.
            stages.STAGES[job["stage"]](job["raw"], Path(job["folder"]), **job.get("options", {}))
            print("done", flush=True)
            continue
        begin, ended = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            _work(job, begin[0], ended[1], close=(begin[1], ended[0]))
        os.close(begin[0])
        os.close(ended[1])
        print(child, flush=True)
        sys.stdin.readline()
        os.write(begin[1], b"g")
        os.close(begin[1])
        with os.fdopen(ended[0], "rb") as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, **(json.loads(told) if told else {})}), flush=True)


def _work(job: dict[str, Any], begin: int, ended: int, close: tuple[int, int]) -> None:
    code = 1
    try:
        for descriptor in close:
            os.close(descriptor)
        flushes = apply_mutant(job.get("mutant"))
        if job.get("many") is not None:
            durable._MANY = job["many"]
        if job.get("serial", True):
            stages.make_serial()
        stage: Callable[..., Any] = stages.STAGES[job["stage"]]
        os.read(begin, 1)
        told = stage(job["raw"], Path(job["folder"]), **job.get("options", {}))
        _tell(ended, {"told": told, "flushes": flushes.seen})
        code = 0
    except BaseException:
        _tell(ended, {"traceback": traceback.format_exc()})
    finally:
        os._exit(code)


def _tell(pipe: int, what: dict[str, Any]) -> None:
    with os.fdopen(os.dup(pipe), "wb") as file:
        file.write(json.dumps(what).encode())


if __name__ == "__main__":
    main()
