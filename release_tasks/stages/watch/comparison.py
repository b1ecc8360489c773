"""Comparison of one sample with the baseline that was measured when the release was prepared; does no I/O.

A degraded health or a count over its limit is ``unknown`` without a baseline: whether the release caused it
is not known. An answer that cannot be read, or that says ok although a part of it does not, is never ``bad``: a watch
rolls back only a service that says that it is not well, or does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import evolve, frozen

from release_tasks.config.schema import LimitsConfig, WatchConfig
from release_tasks.core.records import Baseline, HealthReport, Pressure, ReliabilityReport
from release_tasks.service.reliability import over_limits

__all__ = ["Finding", "Part", "combine", "compare_health", "compare_latency", "compare_pressure"]

Finding = Literal["ok", "bad", "unknown"]
_COUNTS = ("queued", "failed", "dead_letters", "rejected_callbacks")


@frozen
class Part:
    """The finding of one part of a sample, and the reason; ``finding`` is None for a part that is not measured."""

    finding: Finding | None
    why: str = ""


def combine(parts: list[Part]) -> Finding:
    """Return the finding of the sample: ``bad`` if any part is bad, ``ok`` if all measured are ok, else ``unknown``."""
    found = {part.finding for part in parts}
    return "bad" if "bad" in found else "ok" if found - {None} == {"ok"} else "unknown"


def compare_health(health: HealthReport | None, baseline: Baseline | None) -> Part:
    """Judge health: no answer and failure are bad; ``degraded`` is bad only if the service says so and was ``ok``."""
    if health is None:
        return Part(None)
    before = baseline.health if baseline else None
    code = f", HTTP {health.http_status}" if health.http_status is not None and health.status == "failed" else ""
    answer = f"{f'gate {health.gate}' if health.gate is not None else 'health'} {health.status}{code}"
    if health.status == "ok":
        return Part("ok")
    if health.status == "degraded":
        if before is None:
            return Part("unknown", f"{answer}, and its status before the release is unknown")
        if before == "degraded":
            return Part("ok", f"{answer} as before the release")
        if health.stated == "ok" and before == "ok":
            return Part("unknown", "health says ok, but not every part is, as it was before the release")
        return Part("bad" if before == "ok" else "ok", f"{answer}, it was {before} before the release")
    if health.status == "unknown":
        return Part("unknown", f"{answer}, it was {before} before the release" if before == "ok" else answer)
    return Part("bad", answer)


def compare_latency(latency_ms: int | None, baseline: Baseline | None, rules: WatchConfig) -> Part:
    """Judge the latency of a health answer, in milliseconds, by the median of the baseline."""
    before = baseline.latency_ms if baseline else None
    if latency_ms is None or before is None:
        return Part(None)
    limit = max(before * rules.latency_factor, round(rules.latency_floor * 1000))
    if latency_ms <= limit:
        return Part("ok")
    return Part("bad", f"health took {latency_ms} ms (limit {limit} ms, {before} ms before the release)")


def compare_pressure(report: ReliabilityReport | None, baseline: Baseline | None, limits: LimitsConfig) -> Part:
    """Judge queues and callbacks: a count is bad when it is over its limit and higher than in the baseline."""
    if report is None:
        return Part(None)
    before = baseline.pressure if baseline else None
    if report.pressure is None:
        code = f", HTTP {report.http_status}" if report.http_status is not None else ""
        answer = f"reliability {report.status}{code}"
        if baseline is not None and before is None:
            return Part(None, f"{answer}, also unavailable before the release")
        return Part("unknown", answer)
    known = before or Pressure()
    grown = over_limits(_only(report.pressure, lambda name: _has_grown(report.pressure, known, name)), limits, before)
    if grown:
        return Part("bad", "; ".join(grown))
    new = over_limits(_only(report.pressure, lambda name: getattr(known, name) is None), limits)
    if new:
        return Part("unknown", f"{'; '.join(new)}, and the count before the release is unknown")
    lost = [name for name in _COUNTS if getattr(known, name) is not None and getattr(report.pressure, name) is None]
    if lost:
        return Part("unknown", "reliability no longer reports a count that it reported before the release")
    return Part("ok")


def _has_grown(now: Pressure | None, before: Pressure, name: str) -> bool:
    earlier, later = getattr(before, name), getattr(now, name)
    if earlier is None or later is None:
        return False
    # over_limits itself subtracts the rejected callbacks of the baseline, and handles a counter that was reset.
    return name == "rejected_callbacks" or later > earlier


def _only(pressure: Pressure, is_selected: Callable[[str], bool]) -> Pressure:
    return evolve(pressure, **{name: None for name in _COUNTS if not is_selected(name)})
