"""Asking a health endpoint until it is healthy or the deadline is over."""

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
from release_tasks.core.records import HealthAttempt, HealthReport, HealthWord
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration
from release_tasks.service.answer import Answer, ProbeError, ProbeErrorKind
from release_tasks.service.health import read_health
from release_tasks.service.http import fetch

__all__ = ["ask_health"]

_SHORTEST_TIMEOUT = 1.0  # a request that starts just before the deadline gets a fair chance
_SHORTEST_INTERVAL = 0.01
_SILENCE = ("refused", "timeout")  # what a service that is still starting looks like
_FIRST_KEPT, _MOST_KEPT = 5, 50  # attempts: how it began and how it ended say more than what was between
_MOST_DETAIL = 120


def ask_health(
    health: HealthConfig,
    *,
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
    Returns a report whatever the server does; raises nothing. Each answer is emitted; ``gate`` is the gate that asks.
    """
    url = health.url
    if not url:
        detail = "no health URL is configured: set release.health.url or type --health-url"
        return HealthReport(passed=False, status="unknown", url="", detail=detail)
    limit = health.deadline if deadline is None else deadline
    needed = passes if limit > 0 else 1
    cancelled = cancelled or threading.Event()
    started = time.monotonic()
    streak = attempts = 0
    history: list[HealthAttempt] = []
    while True:
        left = started + limit - time.monotonic()
        timeout = health.timeout if limit <= 0 else min(health.timeout, max(left, _SHORTEST_TIMEOUT))
        at, began = timestamp(), time.monotonic()
        seen, trouble = _ask_once(url, timeout, strict, cancelled, on_answer)
        attempt = HealthAttempt(
            at=at,
            status=seen.status,
            passed=seen.passed,
            latency_ms=round((time.monotonic() - began) * 1000),
            http_status=seen.http_status,
            detail=excerpt(seen.detail, _MOST_DETAIL),
        )
        history = [*history, attempt]
        if len(history) > _MOST_KEPT:
            del history[_FIRST_KEPT]
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
            tries = f"{attempts} request{'' if attempts == 1 else 's'}"
            in_a_row = f"{streak} healthy in a row, {needed} are needed; " if streak else ""
            waited = f"not healthy within {show_duration(limit)} ({tries}): {in_a_row}{report.detail}"
            return evolve(report, detail=waited)
        if wait_for(cancelled.wait, max(min(health.interval, left), _SHORTEST_INTERVAL)):
            return evolve(report, detail=f"stopped while waiting; last: {report.detail}")


def _ask_once(
    url: str,
    timeout: float,
    strict: bool,
    cancelled: threading.Event,
    on_answer: Callable[[Answer], None] | None,
) -> tuple[HealthReport, ProbeErrorKind | None]:
    """Return what one request found, secrets left out, and why no usable answer came."""
    redact = Redactor.from_environment(os.environ).redact_text
    try:
        answer = fetch(url, timeout=timeout, cancelled=cancelled)
    except ProbeError as error:
        status: HealthWord = "failed" if error.kind == "redirect" else "unreachable"
        return HealthReport(passed=False, status=status, url=redact(url), detail=redact(error.message)), error.kind
    if on_answer is not None:
        on_answer(answer)
    status, detail, degraded = read_health(answer)
    if status == "degraded" and strict:
        detail = f"{detail}; degraded does not pass with --strict"
    report = HealthReport(
        passed=status == "ok" or (status == "degraded" and not strict),
        status=status,
        url=redact(url),
        detail=redact(detail),
        http_status=answer.status,
        degraded=[redact(part) for part in degraded],
    )
    return report, None
