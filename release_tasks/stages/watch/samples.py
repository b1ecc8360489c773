"""One sample of the service: health, latency and reliability, each requested once with a timeout."""

from __future__ import annotations

from typing import Any

from attrs import field, fields, frozen

from release_tasks.config.schema import ReleaseConfig
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import encode
from release_tasks.core.events import SampleTaken
from release_tasks.core.records import Baseline, Pressure
from release_tasks.core.redact import Redactor
from release_tasks.service.reliability import fetch_reliability
from release_tasks.service.response import HttpResponse
from release_tasks.service.together import begin
from release_tasks.service.wait import poll_health
from release_tasks.stages.watch.comparison import Finding, combine, compare_health, compare_latency, compare_pressure

__all__ = ["Sample", "take_sample"]


@frozen(kw_only=True)
class Sample:
    """One sample. ``why`` has no text of the service; ``detail`` quotes the service, with secrets redacted.

    ``unseen_ms`` is the gap before or within this sample: time without samples, because the machine slept.
    """

    time: str
    finding: Finding
    health: str | None = None
    http_status: int | None = None
    latency_ms: int | None = None
    pressure: Pressure | None = None
    why: list[str] = field(factory=list)
    detail: str = ""
    unseen_ms: int = 0

    def evidence(self) -> dict[str, Any]:
        """Return numbers and status words only: text of a service may contain anything, also personal messages."""
        return {key: value for key, value in encode(self).items() if key not in ("why", "detail") and value is not None}

    def event(self) -> SampleTaken:
        """Return the event that reports this sample."""
        return SampleTaken(**{each.name: getattr(self, each.name) for each in fields(SampleTaken)})


def take_sample(config: ReleaseConfig, baseline: Baseline | None) -> Sample:
    """Ask for health and reliability in parallel, and compare the answers with ``baseline``. Does not raise.

    Takes at most the longer of ``health.timeout`` and ``reliability.timeout``.
    """
    taken_at = timestamp()
    before = baseline.pressure if baseline else None
    reliability_result = begin(lambda: fetch_reliability(config.reliability, before=before))
    answers: list[HttpResponse] = []
    health = None
    if questions := config.questions:
        health = poll_health(config.health, passes=1, questions=questions, deadline=0.0, on_response=answers.append)
    latency_ms = answers[0].elapsed_ms if answers else None
    reliability = reliability_result()
    # Details of an unhealthy answer, or of a failed request.
    details = [health.detail] if health is not None and health.status != "ok" else []
    details += [reliability.detail] if reliability is not None and reliability.pressure is None else []
    parts = [
        compare_health(health, baseline),
        compare_latency(latency_ms, baseline, config.watch),
        compare_pressure(reliability, baseline, config.reliability.limits),
    ]
    return Sample(
        time=taken_at,
        finding=combine(parts),
        health=health.status if health else None,
        http_status=health.http_status if health else None,
        latency_ms=latency_ms,
        pressure=reliability.pressure if reliability else None,
        why=[part.why for part in parts if part.why],
        detail=Redactor.of_process().redact_text("; ".join(details)),
    )
