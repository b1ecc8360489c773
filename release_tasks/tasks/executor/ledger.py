"""Results that one stage leaves for the stages that run after it in the same command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from invoke import Config, Context

__all__ = ["ledger_of_run", "recall", "record", "runs_under_stage_executor"]


@dataclass
class _Ledger:
    is_stage_executor: bool = False
    results: dict[str, object] = field(default_factory=dict)


# The Config is the one object that all tasks of a run have in common under any executor. It keeps
# its own attributes beside its settings, in __dict__; a clone of it starts without a ledger.
_LEDGER = "_release_ledger"


@contextmanager
def ledger_of_run(config: Config) -> Iterator[None]:
    """Give a run under StageExecutor a ledger of its own, empty at first and gone afterwards."""
    outer = vars(config).get(_LEDGER)
    vars(config)[_LEDGER] = _Ledger(is_stage_executor=True)
    try:
        yield
    finally:
        vars(config)[_LEDGER] = outer


def record(ctx: Context, name: str, value: object) -> None:
    """Leave a result for the stages that run later in this command line."""
    ledger = vars(ctx.config).get(_LEDGER)
    if ledger is None:
        ledger = vars(ctx.config)[_LEDGER] = _Ledger()
    ledger.results[name] = value


def recall(ctx: Context, name: str) -> object | None:
    """What an earlier stage of this command line recorded under this name, or None."""
    ledger = vars(ctx.config).get(_LEDGER)
    return None if ledger is None else ledger.results.get(name)


def runs_under_stage_executor(ctx: Context) -> bool:
    """Whether flags travel and stages run once; False under Invoke's stock executor."""
    ledger = vars(ctx.config).get(_LEDGER)
    return ledger is not None and ledger.is_stage_executor
