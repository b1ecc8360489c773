"""Several samples of the health in a few seconds, because one answer of a service that flaps says nothing."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence

from attrs import evolve, frozen

from release_tasks.config.endpoint import Question
from release_tasks.config.schema import HealthConfig
from release_tasks.core.clock import awake
from release_tasks.core.events import Emit, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import Baseline, HealthReport
from release_tasks.service.asking import worst_of
from release_tasks.service.wait import poll_health

__all__ = ["HealthRate", "rate_of", "sample_health"]

_MOST, _LEAST = 5, 3
_PAUSE = 0.2  # seconds between two samples
_ENOUGH = 3.0  # seconds after which the least number of samples is enough
_LONGEST = 12.0  # seconds after which no further sample starts, so that a service that never answers is soon reported


@frozen(kw_only=True)
class HealthRate:
    """The result of the samples: how many passed, and the median latency of those, in milliseconds."""

    samples: int
    passed: int
    latency_ms: int | None

    @property
    def is_flapping(self) -> bool:
        """Whether some samples passed and others failed."""
        return 0 < self.passed < self.samples

    def __str__(self) -> str:
        latency = f", {self.latency_ms} ms" if self.latency_ms is not None else ""
        return f"{self.passed} of {self.samples} samples passed{latency}"


def sample_health(
    health: HealthConfig, questions: Sequence[Question], *, before: Baseline | None = None, emit: Emit = ignore
) -> HealthReport:
    """Take three to five samples with a short pause, and return the worst of them with all samples in its history.

    ``passed`` of the report is True only when every sample passed. While the service answers quickly this takes less
    than a second; no sample starts after 12 seconds, so fewer than three are taken only of a service that is slower
    than its ``timeout`` of 6 s or more. Raises nothing.
    """
    started = awake.now()
    reports: list[HealthReport] = []
    while True:
        report = poll_health(health, passes=1, questions=questions, deadline=0.0, before=before, emit=emit)
        reports.append(report)
        elapsed = awake.now() - started
        is_enough = len(reports) >= _LEAST and elapsed >= _ENOUGH
        if len(reports) >= _MOST or is_enough or elapsed >= _LONGEST:
            break
        wait_for(threading.Event().wait, min(_PAUSE, health.interval))
    return evolve(
        worst_of(reports),
        attempts=len(reports),
        duration_ms=round((awake.now() - started) * 1000),
        history=[attempt for each in reports for attempt in each.history],
    )


def rate_of(report: HealthReport) -> HealthRate:
    """Return how many samples of a report passed."""
    passed = [attempt for attempt in report.history if attempt.passed]
    latency = round(statistics.median(attempt.latency_ms for attempt in passed)) if passed else None
    return HealthRate(samples=len(report.history), passed=len(passed), latency_ms=latency)
