"""Stages that end in the middle, as a power cut or SIGKILL ends them, without a second process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import ParamSpec, TypeVar

import pytest

from release_tasks.stages.rollback import swap

__all__ = ["PowerCut", "call_at", "crash_after_journal_writes", "fail_at"]

P = ParamSpec("P")
R = TypeVar("R")


class PowerCut(BaseException):
    """Ends a stage immediately: no handler of the package catches it."""


def call_at(number: int, real: Callable[P, R], act: Callable[[], object], *, after: bool = False) -> Callable[P, R]:
    """Return ``real`` with ``act`` called once, before or after its call ``number`` (from 1)."""
    calls = 0

    def call(*arguments: P.args, **named: P.kwargs) -> R:
        nonlocal calls
        calls += 1
        is_due = calls == number
        if is_due and not after:
            act()
        result = real(*arguments, **named)
        if is_due and after:
            act()
        return result

    return call


def fail_at(number: int, real: Callable[P, R], error: BaseException, *, after: bool = False) -> Callable[P, R]:
    """Return ``real``, which raises ``error`` before or after its call ``number`` (from 1) and then works again."""

    def fail() -> None:
        raise error

    return call_at(number, real, fail, after=after)


@contextlib.contextmanager
def crash_after_journal_writes(count: int, module: ModuleType = swap) -> Iterator[None]:
    """End the rollback in the block with PowerCut once its swap has written the journal ``count`` times.

    A database takes two writes of the journal, a file or a folder takes one.
    """
    real = vars(module)["write_journal"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_journal", fail_at(count + 1, real, PowerCut()))
        with pytest.raises(PowerCut):
            yield
