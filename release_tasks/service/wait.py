"""Polling of the health endpoint until the service is healthy or the deadline is over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from attrs import evolve

from release_tasks.config.schema import HealthConfig
from release_tasks.core.canonical import excerpt
from release_tasks.core.clock import awake, timestamp
from release_tasks.core.events import Emit, HealthAnswered, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import HealthAttempt, HealthReport, HealthWord
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration
from release_tasks.service.health import read_health
from release_tasks.service.http import fetch
from release_tasks.service.response import HttpResponse, ProbeError, ProbeErrorKind

__all__ = ["poll_health"]

_MIN_TIMEOUT = 1.0  # for a request that starts just before the deadline
_MIN_INTERVAL = 0.01
_STARTING = ("refused", "timeout")  # errors of a service that is still starting
_FIRST_STORED, _MAX_STORED = 5, 50  # the first and the latest attempts are the most useful
_MAX_DETAIL = 120


def poll_health(
    health: HealthConfig,
    *,
    passes: int,
    strict: bool = False,
    deadline: float | None = None,
    fail_fast: bool = False,
    cancelled: threading.Event | None = None,
    emit: Emit = ignore,
    gate: str | None = None,
    on_response: Callable[[HttpResponse], None] | None = None,
) -> HealthReport:
    """Send requests until ``passes`` consecutive responses are healthy or ``deadline`` seconds are over.

    ``degraded`` is healthy unless ``strict``. With a deadline of 0, one request decides. With ``fail_fast``, only a
    refused connection or a timeout is retried; any other failure ends the polling. An invalid URL always ends the
    polling. Always returns a report; raises nothing. Emits HealthAnswered for each request; ``gate`` is the id of the
    calling gate.
    """
    url = health.url
    if not url:
        detail = "no health URL is configured: set release.health.url or type --health-url"
        return HealthReport(passed=False, status="unknown", url="", detail=detail)
    limit = health.deadline if deadline is None else deadline
    required = passes if limit > 0 else 1
    cancelled = cancelled or threading.Event()
    started = awake.now()
    streak = attempts = 0
    history: list[HealthAttempt] = []
    while True:
        remaining = started + limit - awake.now()
        timeout = health.timeout if limit <= 0 else min(health.timeout, max(remaining, _MIN_TIMEOUT))
        at, request_started = timestamp(), awake.now()
        result, error_kind = _request_once(url, timeout, strict, cancelled, on_response)
        attempt = HealthAttempt(
            at=at,
            status=result.status,
            passed=result.passed,
            latency_ms=round((awake.now() - request_started) * 1000),
            http_status=result.http_status,
            detail=excerpt(result.detail, _MAX_DETAIL),
        )
        history = [*history, attempt]
        if len(history) > _MAX_STORED:
            del history[_FIRST_STORED]
        attempts += 1
        streak = streak + 1 if result.passed else 0
        is_final = error_kind == "invalid" or (fail_fast and not result.passed and error_kind not in _STARTING)
        elapsed_ms = round((awake.now() - started) * 1000)
        report = evolve(result, passed=streak >= required, attempts=attempts, duration_ms=elapsed_ms, history=history)
        remaining = max(started + limit - awake.now(), 0.0)
        emit(HealthAnswered(report, streak, required, remaining, gate))
        if report.passed or is_final or limit <= 0:
            return report
        if remaining <= 0:
            requests = f"{attempts} request{'' if attempts == 1 else 's'}"
            progress = f"{streak} of {required} consecutive healthy responses; " if streak else ""
            detail = f"not healthy within {show_duration(limit)} ({requests}): {progress}{report.detail}"
            return evolve(report, detail=detail)
        if wait_for(cancelled.wait, max(min(health.interval, remaining), _MIN_INTERVAL)):
            return evolve(report, detail=f"stopped while waiting; last attempt: {report.detail}")


def _request_once(
    url: str,
    timeout: float,
    strict: bool,
    cancelled: threading.Event,
    on_response: Callable[[HttpResponse], None] | None,
) -> tuple[HealthReport, ProbeErrorKind | None]:
    """Return the redacted report of one request, and the kind of its error, if any."""
    redact = Redactor.from_environment(os.environ).redact_text
    try:
        response = fetch(url, timeout=timeout, cancelled=cancelled)
    except ProbeError as error:
        status: HealthWord = "failed" if error.kind == "redirect" else "unreachable"
        return HealthReport(passed=False, status=status, url=redact(url), detail=redact(error.message)), error.kind
    if on_response is not None:
        on_response(response)
    status, detail, degraded = read_health(response)
    if status == "degraded" and strict:
        detail = f"{detail}; degraded fails with --strict"
    report = HealthReport(
        passed=status == "ok" or (status == "degraded" and not strict),
        status=status,
        url=redact(url),
        detail=redact(detail),
        http_status=response.status,
        degraded=[redact(part) for part in degraded],
    )
    return report, None
