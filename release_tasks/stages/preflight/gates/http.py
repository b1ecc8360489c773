"""HTTP gates: a request to the health endpoint, or to a URL with an expected answer."""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Sequence
from typing import Any

from attrs import NOTHING, frozen

from release_tasks.core.clock import awake
from release_tasks.core.codec import encode
from release_tasks.core.events import HealthAnswered
from release_tasks.core.interrupt import wait_for
from release_tasks.core.options import option
from release_tasks.core.process.output import last_lines
from release_tasks.core.records import HealthReport
from release_tasks.service.http import fetch
from release_tasks.service.response import HttpResponse, ProbeError
from release_tasks.service.wait import poll_health
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict

__all__ = ["KIND", "ExpectConfig", "HttpOptions", "unmet_expectation"]

_BODY_TAIL = 1024
_MISSING = object()
_EXPECT_ELSEWHERE = "is only for an http gate with a URL, and has no effect here"


@frozen(kw_only=True)
class ExpectConfig:
    """The expected answer of an http gate's URL; every configured expectation must be met."""

    status: int | None = option("the expected HTTP status; default: 200 to 299")
    text: str | None = option("text that the body must contain")
    json: str | None = option("a field of the JSON body; dots separate nested fields")
    equals: Any = option("the expected value of that field; without it, the field must exist")


@frozen(kw_only=True)
class HttpOptions:
    """The keys of an HTTP gate."""

    http: str = option("`health` (the endpoint above), or a URL whose answer must match `expect`", NOTHING)
    expect: ExpectConfig | None = option(
        "the expected answer of the URL; see `release.gates.NAME.expect`", elsewhere=_EXPECT_ELSEWHERE
    )

    def __attrs_post_init__(self) -> None:
        if self.asks_health and self.expect is not None:
            raise ValueError(f"expect: {_EXPECT_ELSEWHERE}")
        if not self.asks_health and not self.http.startswith(("http://", "https://")):
            raise ValueError(f"http: expected 'health' or an http:// or https:// URL, got {self.http!r}")

    @property
    def asks_health(self) -> bool:
        """Whether the gate requests the health endpoint instead of a URL of its own."""
        return self.http == "health"


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
        diagnostics["next"] = _curl(report.url, health.timeout) if report.url else "inv --help"
    detail = report.detail
    if report.http_status is not None and not detail.startswith("HTTP "):
        detail = f"HTTP {report.http_status}, {detail}"
    command = f"GET {report.url}" if report.url else None
    return Verdict(passed=report.passed, detail=detail, command=command, diagnostics=diagnostics)


def _check_url(context: GateContext, options: HttpOptions) -> Verdict:
    """Request the gate's URL; retry a refused connection until the timeout, and judge the first answer."""
    url, health = options.http, context.settings.release.health
    timeout = health.timeout if context.config.timeout is None else context.config.timeout
    diagnostics: dict[str, Any] = {"url": url, "httpStatus": None, "attempts": 0}
    answers: list[HttpResponse] = []
    deadline = awake.now() + timeout
    while True:
        diagnostics["attempts"] += 1
        try:
            left = max(deadline - awake.now(), 0.1)
            answers.append(fetch(url, timeout=left, cancelled=context.cancelled))
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
    command = f"GET {url}"
    if problem is None:
        detail = f"HTTP {answers[0].status}, as expected"
        return Verdict(passed=True, detail=detail, command=command, diagnostics=diagnostics)
    diagnostics["bodyTail"] = _body_tail(context, answers)
    diagnostics["next"] = _curl(url, timeout)
    return Verdict(passed=False, detail=problem, command=command, diagnostics=diagnostics)


def unmet_expectation(answer: HttpResponse, expect: ExpectConfig) -> str | None:
    """Return a message about the first expectation that is not met, or None."""
    is_success = 200 <= answer.status < 300
    if expect.status is None and not is_success:
        return f"HTTP {answer.status}, expected 200 to 299"
    if expect.status is not None and answer.status != expect.status:
        return f"HTTP {answer.status}, expected {expect.status}"
    if expect.text is not None and expect.text not in answer.text:
        return f"HTTP {answer.status}, but the body does not contain {expect.text!r}"
    if expect.json is None:
        return None
    try:
        value = _field(json.loads(answer.body), expect.json)
    except (ValueError, RecursionError):
        cut = " (it is too large and was cut off)" if answer.is_truncated else ""
        return f"HTTP {answer.status}, but the body is not JSON{cut}"
    if value is _MISSING:
        return f"HTTP {answer.status}, but the body has no field {expect.json!r}"
    # In Python True == 1; in JSON they are different answers.
    is_same = isinstance(value, bool) == isinstance(expect.equals, bool) and value == expect.equals
    if expect.equals is not None and not is_same:
        found = _short(value)
        return f"HTTP {answer.status}, but {expect.json} is {found}, expected {_short(expect.equals)}"
    return None


def _field(value: Any, dotted: str) -> Any:
    for step in dotted.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:97] + "..."


def _body_tail(context: GateContext, answers: Sequence[HttpResponse]) -> list[str]:
    body = context.redactor.redact(answers[-1].body) if answers else b""
    return last_lines(body[-_BODY_TAIL:])


def _curl(url: str, timeout: float) -> str:
    return f"curl -sS -i --max-time {timeout:g} {shlex.quote(url)}"


KIND = GateKind(name="http", options=HttpOptions, check=_check, ends_itself=True)
