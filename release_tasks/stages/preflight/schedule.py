"""Run gates in parallel: each in its own thread, as soon as the gates that it needs have passed."""

from __future__ import annotations

import math
import queue
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from release_tasks.core.clock import awake, milliseconds_since, timestamp
from release_tasks.core.errors import Interrupted, StageError
from release_tasks.core.events import Emit, GateBegan, GateEnded
from release_tasks.core.interrupt import LONGEST_WAIT, next_item, uninterrupted
from release_tasks.core.records import Check
from release_tasks.core.redact import Redactor
from release_tasks.core.threads import run_aside
from release_tasks.core.typed import typed
from release_tasks.core.units import show_duration
from release_tasks.stages.preflight.gates.base import GateContext, Verdict

__all__ = ["run_gates"]

# Seconds to wait at a stop, by ``GateKind.ends_itself``: a command that ignores SIGTERM takes 0.6 s, longer on a busy
# machine, and must not outlive this process; a plugin may never stop.
_STOP_TIMEOUT = {True: 5.0, False: 1.0}


def run_gates(contexts: Mapping[str, GateContext], emit: Emit) -> dict[str, Check]:
    """Run every gate and return the results by name; starts and results are emitted in the calling thread.

    An exception in the calling thread (KeyboardInterrupt, Interrupted) stops all gates within 5 s and is re-raised.
    """
    checks: dict[str, Check] = {}
    needs = {name: [need for need in gate.config.needs if need in contexts] for name, gate in contexts.items()}
    waiting = list(contexts)
    running = _Running()
    try:
        while len(checks) < len(contexts):
            name = next((name for name in waiting if checks.keys() >= set(needs[name])), None)
            if name is None:
                check = running.next_result()
            else:
                waiting.remove(name)
                unmet = [checks[need] for need in needs[name] if checks[need].status != "passed"]
                if not unmet:
                    emit(GateBegan(name))
                    running.start(contexts[name])
                    continue
                check = _blocked(contexts[name], unmet)
            checks[check.id] = check
            emit(GateEnded(check))
        return checks
    finally:
        running.stop()


@frozen(kw_only=True)
class _StartedGate:
    """A gate that was started."""

    context: GateContext
    started_at: str = field(factory=timestamp)
    started: float = field(factory=awake.now)

    @property
    def deadline(self) -> float:
        """The time until which the engine waits for the result, in seconds of the awake clock."""
        return self.started + self.context.kind.limit(self.context)


class _Running:
    """The gates that were started and have no result yet, each in its own thread."""

    def __init__(self) -> None:
        self._gates: dict[str, _StartedGate] = {}
        self._results: queue.SimpleQueue[Check] = queue.SimpleQueue()

    def start(self, context: GateContext) -> None:
        gate = self._gates[context.name] = _StartedGate(context=context)
        run_aside(lambda: self._results.put(_check(gate)), context.name)

    def next_result(self) -> Check:
        """Wait until the next gate ends or exceeds its time limit."""
        while True:
            due = min(self._gates.values(), key=lambda gate: gate.deadline)
            check = next_item(self._results, due.deadline - awake.now())
            if check is None:
                due.context.cancelled.set()
                check = _overdue(due)
            # A late result of a gate that timed out is dropped.
            if self._gates.pop(check.id, None) is not None:
                return check

    def stop(self) -> None:
        """Stop the gates that still run, within seconds; signals are delayed meanwhile."""
        stopping_since = awake.now()
        with uninterrupted():
            for gate in self._gates.values():
                gate.context.cancelled.set()
            while any(
                awake.now() - stopping_since < _STOP_TIMEOUT[gate.context.kind.ends_itself]
                for gate in self._gates.values()
            ):
                # Not Thread.join: up to Python 3.12 a join that a signal interrupts marks the thread as
                # ended (bpo-45274).
                if (check := next_item(self._results, LONGEST_WAIT)) is not None:
                    self._gates.pop(check.id, None)


def _check(gate: _StartedGate) -> Check:
    """Run one gate; an exception in it becomes a failed result."""
    context = gate.context
    try:
        if context.cancelled.is_set():
            verdict = Verdict(passed=False, detail="cancelled before it started")
        else:
            verdict = context.kind.check(context)
    except StageError as error:
        verdict = Verdict(passed=False, detail=error.message)
    except (Interrupted, KeyboardInterrupt):  # without threads, the gate runs in the main thread
        raise
    # Also SystemExit: without a result the engine would wait for this gate.
    except BaseException as error:
        verdict = Verdict(passed=False, detail=f"the gate raised {type(error).__name__}: {error}")
    return _as_check(gate, verdict)


def _overdue(gate: _StartedGate) -> Check:
    kind = gate.context.kind
    author = f" from {kind.author(gate.context)}" if kind.author else ""
    limit = show_duration(kind.limit(gate.context))
    return _as_check(gate, Verdict(passed=False, detail=f"no result{author} after {limit} (timeout)"))


def _as_check(gate: _StartedGate, verdict: Verdict) -> Check:
    context, redact = gate.context, gate.context.redactor.redact_text
    diagnostics = _plain(verdict.diagnostics, context.redactor)
    if not verdict.passed:
        diagnostics.setdefault("next", typed("gate.run", context.name))
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="passed" if verdict.passed else "failed",
        detail=redact(str(verdict.detail)),
        command=None if verdict.command is None else redact(str(verdict.command)),
        started_at=gate.started_at,
        completed_at=timestamp(),
        duration_ms=milliseconds_since(gate.started),
        advisory=context.config.advisory,
        diagnostics=diagnostics,
    )


def _blocked(context: GateContext, unmet: Sequence[Check]) -> Check:
    states = {"failed": "failed", "skipped": "was skipped"}
    now = timestamp()
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="skipped",
        detail=f"not run: it needs {' and '.join(f'{need.id}, which {states[need.status]}' for need in unmet)}",
        started_at=now,
        completed_at=now,
        advisory=context.config.advisory,
        diagnostics={"needs": [need.id for need in unmet], "next": typed("gate.run", unmet[0].id)},
    )


def _plain(value: Any, redactor: Redactor) -> Any:
    """Return ``value`` as plain JSON values, with every text redacted."""
    if isinstance(value, dict):
        return {redactor.redact_text(str(k)): _plain(item, redactor) for k, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item, redactor) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return redactor.redact_text(str(value))
