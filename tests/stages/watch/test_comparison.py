"""One sample against the baseline: ok, bad or unknown."""

from __future__ import annotations

import pytest

from release_tasks.config.schema import LimitsConfig, WatchConfig
from release_tasks.core.records import Baseline, HealthReport, HealthWord, Pressure, ReliabilityReport
from release_tasks.service.reliability import over_limits
from release_tasks.stages.watch.comparison import (
    Finding,
    Part,
    combine,
    compare_health,
    compare_latency,
    compare_pressure,
)

LIMITS = LimitsConfig()


@pytest.mark.parametrize(
    ("now", "before", "finding"),
    [
        ("ok", "ok", "ok"),
        ("ok", "degraded", "ok"),
        ("ok", None, "ok"),
        ("degraded", "ok", "bad"),
        ("degraded", "degraded", "ok"),
        ("degraded", "failed", "ok"),
        ("degraded", None, "unknown"),
        ("failed", "ok", "bad"),
        ("failed", "failed", "bad"),
        ("failed", None, "bad"),
        ("unreachable", "unreachable", "bad"),
        ("unreachable", None, "bad"),
        ("unknown", "ok", "unknown"),
        ("unknown", "unknown", "unknown"),
        ("unknown", None, "unknown"),
    ],
)
def test_health_is_compared_with_the_baseline(now: HealthWord, before: HealthWord | None, finding: str) -> None:
    """Health that is no worse than before is ok; `failed` and `unreachable` need no baseline."""
    report = HealthReport(passed=False, status=now, url="u", detail="what the service wrote")
    part = compare_health(report, Baseline(health=before))
    assert part.finding == finding
    assert "wrote" not in part.why
    if before is None:
        assert compare_health(report, None).finding == finding


@pytest.mark.parametrize(("stated", "finding"), [("ok", "unknown"), ("degraded", "bad"), (None, "bad")])
def test_an_answer_that_says_ok_is_never_bad(stated: HealthWord | None, finding: str) -> None:
    """A part that is not well is a reason to look, and no reason to roll back a service that says ok."""
    report = HealthReport(passed=True, status="degraded", url="u", detail="status ok: db: DOWN", stated=stated)
    part = compare_health(report, Baseline(health="ok"))
    assert part.finding == finding
    assert "DOWN" not in part.why


@pytest.mark.parametrize(
    ("now", "before", "finding"),
    [
        (9, 2, "ok"),
        (500, 2, "ok"),
        (501, 2, "bad"),
        (501, 0, "bad"),
        (999, 200, "ok"),
        (1001, 200, "bad"),
        (9999, None, None),
        (None, 2, None),
    ],
)
def test_latency_is_compared_by_a_factor_and_a_lower_limit(
    now: int | None, before: int | None, finding: str | None
) -> None:
    """Bad is more than five times the baseline and more than half a second."""
    assert compare_latency(now, Baseline(latency_ms=before), WatchConfig()).finding == finding
    assert compare_latency(now, None, WatchConfig()).finding is None


def reliability(**counts: int) -> ReliabilityReport:
    pressure = Pressure(**counts)
    over = over_limits(pressure, LIMITS)
    return ReliabilityReport(status="pressure" if over else "ok", url="u", detail="", pressure=pressure, over=over)


@pytest.mark.parametrize(
    ("now", "before", "finding", "why"),
    [
        ({"dead_letters": 5}, {"dead_letters": 5}, "ok", ""),
        ({"dead_letters": 4}, {"dead_letters": 5}, "ok", ""),
        ({"dead_letters": 6}, {"dead_letters": 5}, "bad", "6 dead letters (limit 0)"),
        ({"failed": 9}, {"failed": 0}, "ok", ""),
        ({"failed": 11}, {"failed": 10}, "bad", "11 failed messages (limit 10)"),
        ({"queued": 30}, {"queued": 40}, "ok", ""),
        ({"queued": 41}, {"queued": 40}, "bad", "41 queued messages"),
        ({"rejected_callbacks": 103}, {"rejected_callbacks": 100}, "ok", ""),
        ({"rejected_callbacks": 104}, {"rejected_callbacks": 100}, "bad", "4 rejected callbacks since"),
        ({"rejected_callbacks": 4}, {"rejected_callbacks": 100}, "bad", "4 rejected callbacks"),
        ({"dead_letters": 5}, {"failed": 0}, "unknown", "is unknown"),
        ({"dead_letters": 0}, {"failed": 0}, "unknown", "no longer reports a count"),
        ({"failed": 11, "dead_letters": 5}, {"failed": 0}, "bad", "11 failed messages"),
    ],
)
def test_only_increased_pressure_counts(now: dict[str, int], before: dict[str, int], finding: str, why: str) -> None:
    """A count over its limit at prepare time is bad only when it has increased."""
    part = compare_pressure(reliability(**now), Baseline(pressure=Pressure(**before)), LIMITS)
    assert part.finding == finding
    assert why in part.why


def test_pressure_over_its_limit_without_a_baseline_is_unknown() -> None:
    """There is nothing to compare with."""
    assert compare_pressure(reliability(dead_letters=5), None, LIMITS).finding == "unknown"
    assert compare_pressure(reliability(dead_letters=5), Baseline(health="ok"), LIMITS).finding == "unknown"
    assert compare_pressure(reliability(dead_letters=0), None, LIMITS).finding == "ok"


def test_an_unreachable_reliability_endpoint() -> None:
    """Unknown when it was reachable at prepare time or has no baseline; no finding when it was unreachable then."""
    lost = ReliabilityReport(status="unreachable", url="u", detail="d")
    assert compare_pressure(lost, Baseline(pressure=Pressure(failed=0)), LIMITS).finding == "unknown"
    assert compare_pressure(lost, None, LIMITS).finding == "unknown"
    assert compare_pressure(lost, Baseline(health="ok"), LIMITS).finding is None
    assert compare_pressure(None, None, LIMITS).finding is None


@pytest.mark.parametrize(
    ("findings", "combined"),
    [
        (["ok", None, None], "ok"),
        (["ok", "ok", "ok"], "ok"),
        (["ok", None, "unknown"], "unknown"),
        (["ok", "bad", "unknown"], "bad"),
        ([None, None, "ok"], "ok"),
        ([None, None, None], "unknown"),
    ],
)
def test_the_worst_part_decides(findings: list[Finding | None], combined: Finding) -> None:
    """Bad beats unknown, unknown beats ok; no finding at all is unknown."""
    assert combine([Part(finding) for finding in findings]) == combined
