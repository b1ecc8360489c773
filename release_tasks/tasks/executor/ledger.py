"""Results that a stage records for later stages of the same command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from invoke import Config, Context

__all__ = ["Achieved", "achieved_in", "ledger_of_run", "recall", "record", "runs_under_stage_executor"]

_ACHIEVED = "achieved"


@dataclass(frozen=True)
class Achieved:
    """What a stage changed, as a sentence, and the command that undoes it.

    A stage records it as ``achieved``; a command line that fails afterwards shows it.
    """

    sentence: str
    rollback_command: str
    release_id: str | None
    snapshot_id: str | None


@dataclass
class _Ledger:
    is_stage_executor: bool = False
    results: dict[str, object] = field(default_factory=dict)


# The Config is the only object that all tasks of a run share under every executor. Its __dict__ contains its own
# attributes apart from the settings; a clone starts without a ledger.
_LEDGER = "_release_ledger"


@contextmanager
def ledger_of_run(config: Config) -> Iterator[None]:
    """Provide a new ledger for a run under StageExecutor, and remove it afterwards."""
    outer = vars(config).get(_LEDGER)
    vars(config)[_LEDGER] = _Ledger(is_stage_executor=True)
    try:
        yield
    finally:
        vars(config)[_LEDGER] = outer


def record(ctx: Context, name: str, value: object) -> None:
    """Record a result for later stages of this command line."""
    ledger = vars(ctx.config).get(_LEDGER)
    if ledger is None:
        ledger = vars(ctx.config)[_LEDGER] = _Ledger()
    ledger.results[name] = value


def recall(ctx: Context, name: str) -> object | None:
    """Return the result that an earlier stage of this command line recorded under this name, or None."""
    ledger = vars(ctx.config).get(_LEDGER)
    return None if ledger is None else ledger.results.get(name)


def achieved_in(config: Config) -> Achieved | None:
    """Return what the stages of the command line have changed last, or None."""
    ledger = vars(config).get(_LEDGER)
    found = None if ledger is None else ledger.results.get(_ACHIEVED)
    return found if isinstance(found, Achieved) else None


def runs_under_stage_executor(ctx: Context) -> bool:
    """Return whether StageExecutor runs the tasks; False under Invoke's own executor."""
    ledger = vars(ctx.config).get(_LEDGER)
    return ledger is not None and ledger.is_stage_executor
