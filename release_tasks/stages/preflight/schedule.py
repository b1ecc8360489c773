"""Gates side by side: each in a thread of its own, as soon as what it needs has passed."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve, frozen

from release_tasks.core.clock import timestamp
from release_tasks.core.errors import Interrupted, StageError
from release_tasks.core.events import Emit, GateBegan, GateEnded
from release_tasks.core.interrupt import LONGEST_WAIT, next_item
from release_tasks.core.records import Check
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration
from release_tasks.stages.preflight.gates.base import GateContext, Verdict

__all__ = ["run_gates", "subsystem_of"]

# Seconds by whether a gate ends itself: a command that ignores SIGTERM takes 0.6, on a machine that is
# starved of time longer, and must not outlive this process; a plugin may never notice.
_LONGEST_STOP = {True: 5.0, False: 1.0}


@frozen(kw_only=True)
class _Started:
    """A gate on its way; nobody waits for it beyond ``until`` (monotonic seconds)."""

    context: GateContext
    started_at: str
    began: float
    until: float


class _Schedule:
    def __init__(self, contexts: Mapping[str, GateContext]) -> None:
        self.contexts = contexts
        self.checks: dict[str, Check] = {}
        self.running: dict[str, _Started] = {}
        self.waiting = list(contexts)
        self._results: queue.SimpleQueue[Check] = queue.SimpleQueue()

    def needs(self, name: str) -> list[str]:
        return [need for need in self.contexts[name].config.needs if need in self.contexts]

    def next_ready(self) -> str | None:
        """Return the first waiting gate whose needs all have a result."""
        for name in self.waiting:
            if all(need in self.checks for need in self.needs(name)):
                return name
        return None

    def start(self, name: str) -> None:
        context = self.contexts[name]
        thread = threading.Thread(target=self._work, args=(context,), name=name, daemon=True)
        began = time.monotonic()
        self.running[name] = _Started(
            context=context,
            started_at=timestamp(),
            began=began,
            until=began + context.kind.limit(context),
        )
        thread.start()

    def _work(self, context: GateContext) -> None:
        self._results.put(_check(context))

    def next_result(self) -> Check:
        """Wait for the next gate to end, by itself or because its time is up."""
        while True:
            due = min(self.running.values(), key=lambda gate: gate.until)
            check = next_item(self._results, due.until - time.monotonic())
            if check is None:
                due.context.cancelled.set()
                check = _overdue(due)
            # A gate that was given up may still answer; its verdict stands.
            if self.running.pop(check.id, None) is not None:
                return check

    def stop(self) -> None:
        """End what still runs. More signals cannot cut this short, and it is short."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(KeyboardInterrupt, Interrupted), _deaf():
                for gate in self.running.values():
                    gate.context.cancelled.set()
                while self._is_worth_waiting(time.monotonic() - began):
                    # Results and not Thread.join: up to Python 3.12 a join that a signal cuts
                    # short takes the thread for ended (bpo-45274).
                    if (check := next_item(self._results, LONGEST_WAIT)) is not None:
                        self.running.pop(check.id, None)
                return

    def _is_worth_waiting(self, waited: float) -> bool:
        limits = (_LONGEST_STOP[gate.context.kind.ends_itself] for gate in self.running.values())
        return any(waited < limit for limit in limits)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let SIGINT and SIGTERM pass unheard; outside the main thread they are never heard."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_gates(
    contexts: Mapping[str, GateContext],
    emit: Emit,
) -> dict[str, Check]:
    """Run every gate and return the results by name; beginnings and results are told in the calling thread.

    An exception in the calling thread (KeyboardInterrupt, Interrupted) stops all gates within 2 s
    and goes on its way.
    """
    schedule = _Schedule(contexts)
    try:
        while len(schedule.checks) < len(contexts):
            name = schedule.next_ready()
            if name is None:
                check = schedule.next_result()
            else:
                schedule.waiting.remove(name)
                unmet = [n for n in schedule.needs(name) if schedule.checks[n].status != "passed"]
                if not unmet:
                    emit(GateBegan(name))
                    schedule.start(name)
                    continue
                check = _held_back(contexts[name], unmet, schedule.checks)
            schedule.checks[check.id] = check
            emit(GateEnded(check))
        return schedule.checks
    finally:
        schedule.stop()


def subsystem_of(context: GateContext) -> str:
    """Return what a gate speaks for."""
    return context.config.subsystem or context.name


def _check(context: GateContext) -> Check:
    """Run one gate; whatever happens in it becomes a result."""
    started_at, began = timestamp(), time.monotonic()
    try:
        if context.cancelled.is_set():
            verdict = Verdict(passed=False, detail="stopped before it began")
        else:
            verdict = context.kind.check(context)
    except StageError as error:
        verdict = Verdict(passed=False, detail=error.message)
    # A plugin that raises SystemExit must not leave the run waiting for its result.
    except BaseException as error:
        verdict = Verdict(passed=False, detail=f"the gate broke: {type(error).__name__}: {error}")
    return _as_check(context, verdict, started_at, began)


def _as_check(context: GateContext, verdict: Verdict, started_at: str, began: float) -> Check:
    diagnostics = _plain(verdict.diagnostics, context.redactor)
    if not verdict.passed:
        diagnostics.setdefault("next", f"inv gate.run {context.name}")
    redact = context.redactor.redact_text
    return Check(
        id=context.name,
        subsystem=subsystem_of(context),
        status="passed" if verdict.passed else "failed",
        detail=redact(str(verdict.detail)),
        command=None if verdict.command is None else redact(str(verdict.command)),
        started_at=started_at,
        completed_at=timestamp(),
        duration_ms=round((time.monotonic() - began) * 1000),
        advisory=context.config.advisory,
        diagnostics=diagnostics,
    )


def _overdue(gate: _Started) -> Check:
    kind = gate.context.kind
    limit = show_duration(kind.limit(gate.context))
    who = f" of {kind.author(gate.context)}" if kind.author else ""
    verdict = Verdict(passed=False, detail=f"no result{who} after {limit} (timeout); it was given up")
    return _as_check(gate.context, verdict, gate.started_at, gate.began)


def _held_back(context: GateContext, unmet: list[str], checks: Mapping[str, Check]) -> Check:
    said = {"failed": "failed", "skipped": "was skipped"}
    reasons = " and ".join(f"{name}, which {said[checks[name].status]}" for name in unmet)
    check = _as_check(context, Verdict(passed=False, detail=""), timestamp(), time.monotonic())
    return evolve(
        check,
        status="skipped",
        detail=f"not run: it needs {reasons}",
        diagnostics={"needs": unmet, "next": f"inv gate.run {unmet[0]}"},
    )


def _plain(value: Any, redactor: Redactor) -> Any:
    """Return ``value`` as JSON can hold it, every text in it redacted."""
    if isinstance(value, dict):
        return {redactor.redact_text(str(k)): _plain(item, redactor) for k, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item, redactor) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    return redactor.redact_text(str(value))
