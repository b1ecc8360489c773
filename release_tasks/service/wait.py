"""Asking a health endpoint until it is well, or until it is too late."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from attrs import evolve

from release_tasks.config.schema import HealthConfig
from release_tasks.core.canonical import excerpt
from release_tasks.core.clock import timestamp
from release_tasks.core.events import Emit, HealthAnswered, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import HealthAttempt, HealthReport
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration
from release_tasks.service.health import read_health
from release_tasks.service.http import Answer, ProbeError, ProbeErrorKind, fetch

__all__ = ["ask_health"]

_SHORTEST_TIMEOUT = 1.0  # a request that starts just before the deadline gets a fair chance
_SHORTEST_INTERVAL = 0.01
_SILENCE = ("refused", "timeout")  # what a service that is still starting looks like
_FIRST_KEPT, _MOST_KEPT = 5, 50  # attempts: how it began and how it ended say more than what was between
_MOST_DETAIL = 120


def ask_health(
    health: HealthConfig,
    *,
    url: str | None = None,
    passes: int,
    strict: bool = False,
    deadline: float | None = None,
    fail_fast: bool = False,
    cancelled: threading.Event | None = None,
    emit: Emit = ignore,
    gate: str | None = None,
    on_answer: Callable[[Answer], None] | None = None,
) -> HealthReport:
    """Ask until ``passes`` healthy answers came in a row, or ``deadline`` seconds are over.

    ``degraded`` is healthy unless ``strict``. A deadline of 0 means one request that decides alone.
    With ``fail_fast`` only silence (refused, timed out) is waited out: a negative answer ends it.
    Returns a report whatever the server does; nothing is raised. Each answer is told; ``gate`` is for whom it asks.
    """
    url = url or health.url
    if not url:
        detail = "no health URL is configured: set release.health.url or type --health-url"
        return HealthReport(passed=False, status="unknown", url="", detail=detail)
    limit = health.deadline if deadline is None else deadline
    needed = passes if limit > 0 else 1
    cancelled = cancelled or threading.Event()
    redactor = Redactor.from_environment(os.environ)
    started = time.monotonic()
    streak = attempts = 0
    history: list[HealthAttempt] = []
    while True:
        timeout = _attempt_timeout(health.timeout, started + limit - time.monotonic(), limit)
        at, began = timestamp(), time.monotonic()
        seen, trouble = _ask_once(url, timeout, strict, cancelled, on_answer)
        seen = _redacted(seen, redactor)
        history = _kept([*history, _as_attempt(seen, at, time.monotonic() - began)])
        attempts += 1
        streak = streak + 1 if seen.passed else 0
        is_final = trouble == "invalid" or (fail_fast and not seen.passed and trouble not in _SILENCE)
        took = round((time.monotonic() - started) * 1000)
        report = evolve(seen, passed=streak >= needed, attempts=attempts, duration_ms=took, history=history)
        left = max(started + limit - time.monotonic(), 0.0)
        emit(HealthAnswered(report, streak, needed, left, gate))
        if report.passed or is_final or limit <= 0:
            return report
        if left <= 0:
            return _out_of_time(report, streak, needed, limit)
        if wait_for(cancelled.wait, max(min(health.interval, left), _SHORTEST_INTERVAL)):
            return evolve(report, detail=f"stopped while waiting; last: {report.detail}")


def _as_attempt(seen: HealthReport, at: str, seconds: float) -> HealthAttempt:
    return HealthAttempt(
        at=at,
        status=seen.status,
        passed=seen.passed,
        latency_ms=round(seconds * 1000),
        http_status=seen.http_status,
        detail=excerpt(seen.detail, _MOST_DETAIL),
    )


def _kept(history: list[HealthAttempt]) -> list[HealthAttempt]:
    return history if len(history) <= _MOST_KEPT else history[:_FIRST_KEPT] + history[_FIRST_KEPT - _MOST_KEPT :]


def _attempt_timeout(timeout: float, left: float, limit: float) -> float:
    return timeout if limit <= 0 else min(timeout, max(left, _SHORTEST_TIMEOUT))


def _ask_once(
    url: str,
    timeout: float,
    strict: bool,
    cancelled: threading.Event,
    on_answer: Callable[[Answer], None] | None,
) -> tuple[HealthReport, ProbeErrorKind | None]:
    try:
        answer = fetch(url, timeout=timeout, cancelled=cancelled)
    except ProbeError as error:
        report = HealthReport(
            passed=False,
            status="failed" if error.kind == "redirect" else "unreachable",
            url=url,
            detail=error.message,
        )
        return report, error.kind
    if on_answer is not None:
        on_answer(answer)
    status, detail, degraded = read_health(answer)
    is_healthy = status == "ok" or (status == "degraded" and not strict)
    if status == "degraded" and strict:
        detail = f"{detail}; degraded does not pass with --strict"
    report = HealthReport(
        passed=is_healthy,
        status=status,
        url=url,
        detail=detail,
        http_status=answer.status,
        degraded=degraded,
    )
    return report, None


def _redacted(report: HealthReport, redactor: Redactor) -> HealthReport:
    return evolve(
        report,
        url=redactor.redact_text(report.url),
        detail=redactor.redact_text(report.detail),
        degraded=[redactor.redact_text(part) for part in report.degraded],
    )


def _out_of_time(report: HealthReport, streak: int, needed: int, limit: float) -> HealthReport:
    tries = f"{report.attempts} request{'' if report.attempts == 1 else 's'}"
    waited = f"not healthy within {show_duration(limit)} ({tries})"
    if streak:
        detail = f"{waited}: {streak} healthy in a row, {needed} are needed; {report.detail}"
    else:
        detail = f"{waited}: {report.detail}"
    return evolve(report, detail=detail)
