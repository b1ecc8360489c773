"""HTTP gates: a request to the health endpoint, or to a URL with an expected answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from attrs import NOTHING, asdict, frozen

from release_tasks.config.endpoint import ExpectConfig, Question, RequestConfig, require_readable
from release_tasks.config.schema import Settings
from release_tasks.core.clock import awake
from release_tasks.core.codec import encode
from release_tasks.core.events import HealthAnswered
from release_tasks.core.interrupt import wait_for
from release_tasks.core.options import option
from release_tasks.core.process.output import last_lines
from release_tasks.core.records import HealthReport
from release_tasks.core.typed import typed
from release_tasks.core.url import check_url
from release_tasks.service.expectation import unmet_expectation
from release_tasks.service.http import fetch
from release_tasks.service.request import curl, request_for, shown_endpoint
from release_tasks.service.response import HttpResponse, ProbeError
from release_tasks.service.wait import poll_health
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict

__all__ = ["KIND", "HttpOptions", "health_command", "health_gate"]

_BODY_TAIL = 1024


@frozen(kw_only=True)
class HttpOptions(RequestConfig):
    """The keys of an HTTP gate."""

    http: str = option("`health` (the endpoint above), or a URL whose answer must match `expect`", NOTHING)
    expect: ExpectConfig | None = option("the expected answer of the URL; see `release.gates.NAME.expect`")

    def __attrs_post_init__(self) -> None:
        if self.asks_health:
            self._refuse_own_keys()
            return
        require_readable(self.method, self.expect)
        try:
            check_url(self.http)
        except ValueError as error:
            raise ValueError(f"http: {error}".replace("expected ", "expected 'health' or ", 1)) from None

    def _refuse_own_keys(self) -> None:
        unset = {**asdict(RequestConfig(), recurse=False), "expect": None}
        for name, default in unset.items():
            if getattr(self, name) != default:
                raise ValueError(f"{name}: the gate asks the health endpoint; set release.health.{name}")

    def question(self, gate: str) -> Question | None:
        """Return what a gate of this name asks; None for one that asks the health endpoint."""
        expect = self.expect or ExpectConfig()
        return None if self.asks_health else Question(url=self.http, request=self, expect=expect, gate=gate)

    @property
    def asks_health(self) -> bool:
        """Whether the gate requests the health endpoint instead of a URL of its own."""
        return self.http == "health"


def health_gate(settings: Settings) -> str | None:
    """Return the name of the gate that requests the health endpoint, or None."""
    for name, gate in settings.release.gates.items():
        if isinstance(gate.options, HttpOptions) and gate.options.asks_health:
            return name
    return None


def health_command(settings: Settings) -> str:
    """Return the command that shows the health of the service now."""
    name = health_gate(settings)
    return typed("release.diagnose") if name is None else typed("gate.run", name)


def _check(context: GateContext) -> Verdict:
    """Request the health endpoint until it passes, or the gate's URL until it can be reached."""
    options: HttpOptions = context.config.options
    if not options.asks_health:
        return _check_url(context, options)
    health = context.settings.release.health
    answers: deque[HttpResponse] = deque(maxlen=1)
    report = poll_health(
        health,
        passes=health.passes,
        strict=health.strict,
        deadline=context.config.timeout,
        fail_fast=True,
        cancelled=context.cancelled,
        on_response=answers.append,
        emit=context.emit,
        gate=context.name,
    )
    diagnostics: dict[str, Any] = {
        "url": report.url,
        "httpStatus": report.http_status,
        "status": report.status,
        "degraded": report.degraded,
        "attempts": report.attempts,
        "history": encode(report)["history"],
    }
    if not report.passed:
        diagnostics["bodyTail"] = _body_tail(context, answers)
        with_url = typed("release.preflight", "--health-url", "URL")
        diagnostics["next"] = curl(health.url, health, health.timeout) if health.url else with_url
    detail = report.detail
    if report.http_status is not None and not detail.startswith("HTTP "):
        detail = f"HTTP {report.http_status}, {detail}"
    command = f"{health.method} {report.url}" if report.url else None
    return Verdict(passed=report.passed, detail=detail, command=command, diagnostics=diagnostics)


def _check_url(context: GateContext, options: HttpOptions) -> Verdict:
    """Request the gate's URL; retry a refused connection until the timeout, and judge the first answer."""
    url, health = shown_endpoint(options.http, options), context.settings.release.health
    timeout = health.timeout if context.config.timeout is None else context.config.timeout
    diagnostics: dict[str, Any] = {"url": url, "httpStatus": None, "attempts": 0}
    answers: list[HttpResponse] = []
    deadline = awake.now() + timeout
    while True:
        diagnostics["attempts"] += 1
        try:
            left = max(deadline - awake.now(), 0.1)
            request = request_for(options.http, options, left, expect=options.expect)
            answers.append(fetch(request, cancelled=context.cancelled))
            problem = unmet_expectation(answers[0], options.expect or ExpectConfig())
            diagnostics["httpStatus"] = answers[0].status
            break
        except ProbeError as error:
            problem = error.message
            left = deadline - awake.now()
            is_last = error.kind != "refused" or left <= 0
            report = HealthReport(
                passed=False, status="unreachable", url=url, detail=problem, attempts=diagnostics["attempts"]
            )
            context.emit(HealthAnswered(report, 0, 1, max(left, 0.0), context.name))
            if is_last or wait_for(context.cancelled.wait, min(max(health.interval, 0.01), left)):
                break
    command = f"{options.method} {url}"
    if problem is None:
        detail = f"HTTP {answers[0].status}, as expected"
        return Verdict(passed=True, detail=detail, command=command, diagnostics=diagnostics)
    diagnostics["bodyTail"] = _body_tail(context, answers)
    diagnostics["next"] = curl(options.http, options, timeout)
    return Verdict(passed=False, detail=problem, command=command, diagnostics=diagnostics)


def _body_tail(context: GateContext, answers: Sequence[HttpResponse]) -> list[str]:
    if not answers:
        return []
    redact = context.redactor.redact if not answers[-1].is_truncated else context.redactor.redact_beginning
    return last_lines(redact(answers[-1].body)[-_BODY_TAIL:])


KIND = GateKind(name="http", options=HttpOptions, check=_check, ends_itself=True, asks_service=True)
