"""How a service is at the moment, for whoever compares it with later."""

from __future__ import annotations

import statistics

from release_tasks.config.schema import ReleaseConfig
from release_tasks.core.records import Baseline
from release_tasks.service.health import read_health
from release_tasks.service.http import ProbeError, fetch
from release_tasks.service.reliability import ask_reliability

__all__ = ["measure_baseline"]

_LOOKS = 3


def measure_baseline(config: ReleaseConfig, health_url: str | None = None) -> Baseline | None:
    """Ask health a few times and reliability once; None where neither is configured. Nothing is raised."""
    health_url = health_url or config.health.url
    if health_url is None and config.reliability.url is None:
        return None
    health, latency_ms = _look_at_health(health_url, config.health.timeout)
    reliability = ask_reliability(config.reliability)
    return Baseline(
        health=health, latency_ms=latency_ms, pressure=reliability.pressure if reliability is not None else None
    )


def _look_at_health(url: str | None, timeout: float) -> tuple[str | None, int | None]:
    if url is None:
        return None, None
    elapsed: list[int] = []
    status = "unreachable"
    for _ in range(_LOOKS):
        try:
            answer = fetch(url, timeout=timeout)
        except ProbeError:
            return "unreachable", None
        status, _, _ = read_health(answer)
        elapsed.append(answer.elapsed_ms)
    return status, round(statistics.median(elapsed))
