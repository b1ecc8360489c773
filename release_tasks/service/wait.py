"""Polling of the health endpoint until the service is healthy or the deadline is over."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, evolve

from release_tasks.config.endpoint import Question
from release_tasks.config.schema import HealthConfig
from release_tasks.core.canonical import excerpt
from release_tasks.core.clock import awake, timestamp
from release_tasks.core.events import Emit, HealthAnswered, Noted, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import Baseline, HealthAttempt, HealthForm, HealthReport
from release_tasks.core.units import show_duration
from release_tasks.service.asking import Answer, ask, combined
from release_tasks.service.response import HttpResponse

__all__ = ["ServiceStart", "poll_health"]

_MIN_TIMEOUT = 1.0  # for a request that starts just before the deadline
_MIN_INTERVAL = 0.01
_STARTING = ("refused", "timeout")  # errors of a service that is still starting
_FIRST_STORED, _MAX_STORED = 5, 50  # the first and the latest attempts are the most useful
_MAX_DETAIL = 120
_UNREADABLE_ANSWERS = 3
_DOUBT = (
    "Health passes, but the command that starts the service still runs, so the process before it may answer. Health is "
    "checked until the command ends"
)


class ServiceStart(Protocol):
    """The start of the service whose health is asked: it may fail meanwhile, and another process may answer first."""

    def failure(self) -> str:
        """Return the reason why the start has failed, or an empty text."""
        ...

    def counts_from(self) -> float:
        """Return the awake time from which an answer counts; infinity while the answering process is unknown."""
        ...


@define
class _Streak:
    """The consecutive healthy answers; they are counted anew when the start tells from when on they count."""

    required: int
    start: ServiceStart | None
    length: int = 0
    counts_from: float = -math.inf

    def note(self) -> None:
        """Note from when on answers count, before a request and after its answer."""
        counts_from = self.start.counts_from() if self.start is not None else -math.inf
        if counts_from != self.counts_from:
            self.length, self.counts_from = 0, counts_from

    def add(self, passed: bool, requested_at: float) -> str:
        """Count an answer, and return the reason why the start has failed, or an empty text."""
        self.note()
        # While it is unknown which process answers, the deadline decides.
        counts = self.counts_from == math.inf or requested_at >= self.counts_from
        self.length = self.length + 1 if passed and counts else 0
        return self.start.failure() if self.start is not None else ""

    def is_complete(self, *, at_deadline: bool) -> bool:
        """Return whether there are enough answers."""
        return self.length >= self.required and (at_deadline or self.counts_from != math.inf)


@define
class _Unreadable:
    """The consecutive answers of one form that cannot be read, compared with the baseline of the release."""

    before: Baseline | None
    most: int
    form: HealthForm | None = None
    length: int = 0

    def add(self, form: HealthForm | None) -> None:
        """Count an answer; ``form`` is None for one that was read, and for none at all."""
        self.length = self.length + 1 if form is not None and form == self.form else 1
        self.form = form

    @property
    def is_as_before(self) -> bool:
        """Whether the last answer has the same form as at prepare."""
        return self.form is not None and self.before is not None and self.form == self.before.form

    @property
    def is_final(self) -> bool:
        """Whether a readable answer cannot be expected any more."""
        was_readable = self.before is not None and self.before.health not in (None, "unknown")
        may_change = self.form is None or bool(self.form.words) or was_readable or self.is_as_before
        return not may_change and self.length >= self.most


def poll_health(
    health: HealthConfig,
    *,
    passes: int,
    questions: Sequence[Question] | None = None,
    strict: bool = False,
    deadline: float | None = None,
    fail_fast: bool = False,
    cancelled: threading.Event | None = None,
    emit: Emit = ignore,
    gate: str | None = None,
    on_response: Callable[[HttpResponse], None] | None = None,
    start: ServiceStart | None = None,
    before: Baseline | None = None,
) -> HealthReport:
    """Send requests until ``passes`` consecutive responses are healthy or ``deadline`` seconds are over.

    ``degraded`` is healthy unless ``strict``. With a deadline of 0, one request decides. With ``fail_fast``, only a
    refused connection or a timeout is retried; any other failure ends the polling. An invalid URL always ends the
    polling. Always returns a report; raises nothing. Emits HealthAnswered for each request; ``gate`` is the id of
    the calling gate. With ``questions``, these are asked at once in place of the health endpoint, and all must
    pass; the first answer is the one that ``on_response`` gets. ``start`` is observed at each request: its failure
    ends the polling, and an answer from before it counts is not counted. While it is unknown which process answers,
    requests are sent until the deadline.

    An answer that cannot be read passes, as ``unknown``, when it has the same form as in the baseline ``before``.
    Otherwise some such answers in a row end the polling, because waiting does not make a form readable; they are
    waited for only when the service had a readable answer before, or when the answer has a word that may change.
    """
    asked = [health.question] if questions is None and health.question is not None else questions
    if not asked:
        detail = "no health URL is configured: set release.health.url or type --health-url"
        return HealthReport(passed=False, status="unknown", url="", detail=detail)
    limit = health.deadline if deadline is None else deadline
    required = passes if limit > 0 else 1
    cancelled = cancelled or threading.Event()
    started = awake.now()
    streak = _Streak(required, start)
    unreadable = _Unreadable(before, max(required, _UNREADABLE_ANSWERS))
    attempts = 0
    history: list[HealthAttempt] = []
    while True:
        remaining = started + limit - awake.now()
        longest = math.inf if limit <= 0 else max(remaining, _MIN_TIMEOUT)
        streak.note()
        at, request_started = timestamp(), awake.now()
        asking = functools.partial(ask, asked, health.timeout, longest=longest, strict=strict, cancelled=cancelled)
        answers = _with_known_form(asking(), unreadable)
        result = combined(answers)
        if on_response is not None and (response := answers[0].response) is not None:
            on_response(response)
        attempt = HealthAttempt(
            at=at,
            status=result.status,
            passed=result.passed,
            latency_ms=_latency_ms(answers, awake.now() - request_started),
            http_status=result.http_status,
            detail=excerpt(result.detail, _MAX_DETAIL),
        )
        history = [*history, attempt]
        if len(history) > _MAX_STORED:
            del history[_FIRST_STORED]
        attempts += 1
        failure = streak.add(result.passed, request_started)
        errors = [answer.error for answer in answers if not answer.report.passed]
        is_final = "invalid" in errors or (fail_fast and any(error not in _STARTING for error in errors))
        elapsed_ms = round((awake.now() - started) * 1000)
        remaining = max(started + limit - awake.now(), 0.0)
        passed = not failure and streak.is_complete(at_deadline=remaining <= 0)
        report = evolve(result, passed=passed, attempts=attempts, duration_ms=elapsed_ms, history=history)
        emit(HealthAnswered(report, streak.length, required, remaining, gate))
        if failure:
            return evolve(report, detail=f"{failure}; last answer: {report.detail}")
        if streak.length == required and not passed:
            emit(Noted(f"{_DOUBT}, or for {show_duration(remaining)}."))
        if report.passed or is_final or limit <= 0:
            return report
        if unreadable.is_final:
            return evolve(report, detail=f"{report.detail}; this form cannot be read, so waiting does not help")
        if remaining <= 0:
            requests = f"{attempts} request{'' if attempts == 1 else 's'}"
            progress = f"{streak.length} of {required} consecutive healthy responses; " if streak.length else ""
            detail = f"not healthy within {show_duration(limit)} ({requests}): {progress}{report.detail}"
            return evolve(report, detail=detail)
        if wait_for(cancelled.wait, max(min(health.interval, remaining), _MIN_INTERVAL)):
            return evolve(report, detail=f"stopped while waiting; last attempt: {report.detail}")


def _with_known_form(answers: list[Answer], unreadable: _Unreadable) -> list[Answer]:
    """Let a first answer that cannot be read pass when its form is as before."""
    first, *others = answers
    unreadable.add(first.form)
    if unreadable.is_as_before:
        detail = "health cannot be read; the answer has the same form as at prepare"
        first = evolve(first, report=evolve(first.report, passed=True, detail=detail))
    return [first, *others]


def _latency_ms(answers: list[Answer], elapsed: float) -> int:
    """Return the latency of the first answer, as in the baseline; without an answer, the ``elapsed`` seconds."""
    response = answers[0].response
    return round(elapsed * 1000) if response is None else response.elapsed_ms
