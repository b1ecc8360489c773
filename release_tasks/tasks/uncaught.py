"""Mistakes in a configuration that end Invoke before any task runs: one sentence in place of a traceback.

``inv`` loads tasks.py first and the project's configuration afterwards, so this package is imported when a file cannot
be read, and Invoke itself does not catch the exception. The files of the user (``~/.invoke.*``) and of the system are
loaded before tasks.py; a mistake there stays a traceback under ``inv``.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

from release_tasks.tasks.sources.loading import describe_load_error

__all__ = ["describe_load_errors"]


def describe_load_errors() -> None:
    """Show an uncaught exception from Invoke's loading as one sentence, and end with 2; others are shown as before.

    With INVOKE_DEBUG the traceback is shown too.
    """
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        problem = describe_load_error(error)
        if problem is None or os.environ.get("INVOKE_DEBUG"):
            show(kind, error, trace)
        if problem is not None:
            from release_tasks.tasks.executor import UsageExit, refuse

            try:
                refuse(problem, as_json="--json" in sys.argv)
            except UsageExit as end:
                sys.stderr.write(f"{end.message}\n")
                raise SystemExit(end.code) from None

    sys.excepthook = hook
