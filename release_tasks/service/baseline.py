"""The baseline: the state of a service at prepare time, for later comparison."""

from __future__ import annotations

import statistics

from release_tasks.config.schema import ReleaseConfig
from release_tasks.core.records import Baseline, HealthForm
from release_tasks.service.expectation import judge_health
from release_tasks.service.form import form_of
from release_tasks.service.http import fetch
from release_tasks.service.reliability import fetch_reliability
from release_tasks.service.request import request_for
from release_tasks.service.response import ProbeError

__all__ = ["measure_baseline"]

_PROBES = 3


def measure_baseline(config: ReleaseConfig) -> Baseline | None:
    """Request health a few times and reliability once. Returns None when neither is configured. Raises nothing."""
    if config.health.url is None and config.reliability.url is None:
        return None
    health: str | None = None
    forms: list[HealthForm] = []
    elapsed: list[int] = []
    if config.health.url is not None:
        try:
            request = request_for(config.health.url, config.health, config.health.timeout, expect=config.health.expect)
            for _ in range(_PROBES):
                response = fetch(request)
                health = judge_health(response, config.health.expect).status
                forms += [form_of(response)] if health == "unknown" else []
                elapsed.append(response.elapsed_ms)
        except ProbeError as error:
            health, elapsed = None if error.kind == "invalid" else "unreachable", []
    reliability = fetch_reliability(config.reliability)
    return Baseline(
        health=health,
        latency_ms=round(statistics.median(elapsed)) if elapsed else None,
        pressure=reliability.pressure if reliability is not None else None,
        form=forms[-1] if len(forms) == _PROBES and forms.count(forms[-1]) == _PROBES else None,
    )
