"""One HTTP probe for health and reliability: it ends on time and believes no strange answer."""

from __future__ import annotations

from release_tasks.service.answer import Answer, ProbeError
from release_tasks.service.baseline import measure_baseline
from release_tasks.service.health import read_health
from release_tasks.service.http import fetch
from release_tasks.service.reliability import ask_reliability, over_limits
from release_tasks.service.wait import ask_health

__all__ = [
    "Answer",
    "ProbeError",
    "ask_health",
    "ask_reliability",
    "fetch",
    "measure_baseline",
    "over_limits",
    "read_health",
]
