"""Which of Invoke's objects runs the current code: Invoke gives a task neither its program nor its collection."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["caller_of"]


def caller_of(method: Callable[..., Any]) -> Any:
    """Return ``self`` of the innermost running call of ``method``, taken from the call stack, or None."""
    code = getattr(method, "__code__", None)
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("self")
