"""The process that reads the content of databases. It reads requests as lines of JSON from stdin, and answers so.

It exits when its parent exits, and the kernel ends it when it uses more CPU time than the request allows.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

import apsw

from release_tasks.assets.sqlite import content
from release_tasks.core.errors import StageFailed, describe_error

__all__ = ["answer", "main"]

_ACTIONS: dict[str, Callable[..., Any]] = {
    "check": content.check,
    "columns": content.columns,
    "count": content.count,
    "schema": content.schema,
}
_PYTHON_BYTES = 1 << 30  # address space of Python itself, and of a result
_MAX_TEXT = 2000  # characters of a message that quotes the schema


def main() -> None:
    """Answer requests until stdin is closed."""
    answers = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as devnull:
        os.dup2(devnull.fileno(), 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    while True:
        request = json.loads(requests.get())
        _limit_use(request.pop("cpu"), request.pop("memory"))
        line = json.dumps(answer(request.pop("action"), request)).encode() + b"\n"
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(answers, rest) :]


def _read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    """Pass on each line of stdin, and exit at its end, also while SQLite works."""
    rest = b""
    while part := os.read(0, 1 << 16):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            requests.put(line)
    os._exit(0)


def _limit_use(cpu: int, memory: int) -> None:
    """Allow ``cpu`` more seconds of CPU time, and ``memory`` bytes."""
    _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + cpu)
    apsw.hard_heap_limit(memory)
    _limit(resource.RLIMIT_AS, memory + _PYTHON_BYTES)  # SQLite reaches its own limit first, which is an error


def _limit(which: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit is set already
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _shortened(message: str) -> str:
    """Return a message without the end of one that is too long: half a word may be half a secret."""
    return message if len(message) <= _MAX_TEXT else f"{message[:_MAX_TEXT].rpartition(' ')[0]} ..."


def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the result of an action, or the error of SQLite, as a document."""
    try:
        return {"result": _ACTIONS[action](**request)}
    except (MemoryError, apsw.NoMemError, apsw.TooBigError):
        return {"unfinished": "needs too much memory"}
    except apsw.Error as error:
        return {
            "error": type(error).__name__,
            "code": int(getattr(error, "extendedresult", 0)),
            "message": _shortened(str(error)),
        }
    except (StageFailed, OSError) as error:  # of a delta or its base
        return {"unreadable": _shortened(describe_error(error))}
