"""One look at the service against how it was at prepare time. No clock, no requests.

What cannot be compared is neither good nor bad: nothing tells whether the release did it.
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
    """What one side of a look says, and why; ``finding`` is None where it says nothing and does not have to."""

    finding: Finding | None
    why: str = ""


def combine(parts: list[Part]) -> Finding:
    """Return what the parts of a look say together: one bad part is enough, and one that is not known casts doubt."""
    found = {part.finding for part in parts}
    return "bad" if "bad" in found else "ok" if found - {None} == {"ok"} else "unknown"


def compare_health(health: HealthReport | None, baseline: Baseline | None) -> Part:
    """Judge a health answer: silence and failure are bad, ``degraded`` only if the service was well before."""
    if health is None:
        return Part(None)
    before = baseline.health if baseline else None
    code = f", HTTP {health.http_status}" if health.http_status is not None and health.status == "failed" else ""
    told = f"health {health.status}{code}"
    if health.status == "ok":
        return Part("ok")
    if health.status == "degraded":
        if before is None:
            return Part("unknown", f"{told}, and how it was before the release is not known")
        if before == "degraded":
            return Part("ok", f"{told} as before the release")
        return Part("bad" if before == "ok" else "ok", f"{told}, it was {before} before the release")
    if health.status == "unknown" and before in (None, "unknown"):
        return Part("unknown", told)
    return Part("bad", told)


def compare_latency(latency_ms: int | None, baseline: Baseline | None, rules: WatchConfig) -> Part:
    """Judge how long a health answer took, in milliseconds, by the median of prepare time."""
    before = baseline.latency_ms if baseline else None
    if latency_ms is None or before is None:
        return Part(None)
    limit = max(before * rules.latency_factor, round(rules.latency_floor * 1000))
    if latency_ms <= limit:
        return Part("ok")
    return Part("bad", f"health took {latency_ms} ms (limit {limit} ms, {before} ms before the release)")


def compare_pressure(report: ReliabilityReport | None, baseline: Baseline | None, limits: LimitsConfig) -> Part:
    """Judge queues and callbacks: over its limit counts only what is more than at prepare time."""
    if report is None:
        return Part(None)
    before = baseline.pressure if baseline else None
    if report.pressure is None:
        code = f", HTTP {report.http_status}" if report.http_status is not None else ""
        told = f"reliability {report.status}{code}"
        if baseline is not None and before is None:
            return Part(None, f"{told}, not to be had before the release either")
        return Part("unknown", told)
    known = before or Pressure()
    grown = over_limits(_only(report.pressure, lambda name: _has_grown(report.pressure, known, name)), limits, before)
    if grown:
        return Part("bad", "; ".join(grown))
    new = over_limits(_only(report.pressure, lambda name: getattr(known, name) is None), limits)
    if new:
        return Part("unknown", f"{'; '.join(new)}, and how many there were before the release is not known")
    lost = [name for name in _COUNTS if getattr(known, name) is not None and getattr(report.pressure, name) is None]
    if lost:
        return Part("unknown", "reliability does not count any more what it counted before the release")
    return Part("ok")


def _has_grown(now: Pressure | None, before: Pressure, name: str) -> bool:
    earlier, later = getattr(before, name), getattr(now, name)
    if earlier is None or later is None:
        return False
    # Rejected callbacks are counted since prepare time by over_limits, which knows of counts that began anew.
    return name == "rejected_callbacks" or later > earlier


def _only(pressure: Pressure, is_wanted: Callable[[str], bool]) -> Pressure:
    return evolve(pressure, **{name: None for name in _COUNTS if not is_wanted(name)})
