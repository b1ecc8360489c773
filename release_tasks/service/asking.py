"""One round of the questions about the health of the service: all are asked at once, and the worst answer counts."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence

from attrs import evolve, frozen

from release_tasks.config.endpoint import Question
from release_tasks.core.records import HealthForm, HealthReport, HealthWord
from release_tasks.service.expectation import judge_health
from release_tasks.service.form import form_of
from release_tasks.service.http import fetch
from release_tasks.service.request import redactor_of, request_for, shown_endpoint
from release_tasks.service.response import HttpResponse, ProbeError, ProbeErrorKind
from release_tasks.service.together import together

__all__ = ["Answer", "ask", "combined", "worst_of"]

_NO_ANSWER: dict[ProbeErrorKind, HealthWord] = {"redirect": "failed", "invalid": "unknown"}  # else "unreachable"
_FROM_BEST = ("ok", "degraded", "unknown", "failed", "unreachable")


@frozen(kw_only=True)
class Answer:
    """The redacted report about one question; ``response`` is None, and ``error`` the reason, when there is none."""

    report: HealthReport
    response: HttpResponse | None = None
    error: ProbeErrorKind | None = None

    @property
    def form(self) -> HealthForm | None:
        """The form of an answer that cannot be read."""
        is_unreadable = self.response is not None and self.report.status == "unknown"
        return form_of(self.response) if self.response is not None and is_unreadable else None


def ask(
    questions: Sequence[Question],
    timeout: float,
    *,
    longest: float = math.inf,
    strict: bool = False,
    cancelled: threading.Event | None = None,
) -> list[Answer]:
    """Send one request for each question, at the same time. Raises nothing.

    ``timeout``, in seconds, limits each request of a question without a limit of its own; ``longest`` limits all.
    """
    limits = [min(timeout if each.timeout is None else each.timeout, longest) for each in questions]
    return together(
        [
            functools.partial(_ask_one, each, limit, strict, cancelled)
            for each, limit in zip(questions, limits, strict=True)
        ]
    )


def _ask_one(question: Question, timeout: float, strict: bool, cancelled: threading.Event | None) -> Answer:
    redact, shown = redactor_of(question.request).redact_text, shown_endpoint(question.url, question.request)
    prefix = f"gate {question.gate}: " if question.gate is not None else ""
    try:
        request = request_for(question.url, question.request, timeout, expect=question.expect)
        response = fetch(request, cancelled=cancelled)
    except ProbeError as error:
        status = _NO_ANSWER.get(error.kind, "unreachable")
        detail = f"{prefix}{redact(error.message)}"
        report = HealthReport(passed=False, status=status, url=shown, detail=detail, gate=question.gate)
        return Answer(report=report, error=error.kind)
    reading = judge_health(response, question.expect)
    detail = redact(reading.detail)
    if reading.status == "degraded" and strict:
        detail = f"{detail}; degraded fails with --strict"
    report = HealthReport(
        passed=reading.status == "ok" or (reading.status == "degraded" and not strict),
        status=reading.status,
        url=shown,
        detail=f"{prefix}{detail}",
        http_status=response.status,
        degraded=[redact(part) for part in reading.parts],
        stated=reading.stated,
        gate=question.gate,
    )
    return Answer(report=report, response=response)


def worst_of(reports: Sequence[HealthReport]) -> HealthReport:
    """Return the report of the worst answer, the first of equal ones."""
    return max(reports, key=lambda report: (not report.passed, _FROM_BEST.index(report.status)))


def combined(answers: Sequence[Answer]) -> HealthReport:
    """Return the worst report, with the details of all that failed, or the names of the gates that passed."""
    reports = [answer.report for answer in answers]
    worst = worst_of(reports)
    shown = [report.detail for report in reports if not report.passed] or [worst.detail]
    if passed := [report.gate for report in reports if report.passed and report.gate is not None and report != worst]:
        shown.append(f"{', '.join(passed)} passed")
    degraded = [part for report in reports for part in report.degraded]
    return evolve(worst, detail="; ".join(shown), degraded=degraded)
