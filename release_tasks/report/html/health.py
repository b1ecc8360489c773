"""The health checks that gates, watches and rollbacks recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from release_tasks.core.records import Check
from release_tasks.report.html.history import Rollback
from release_tasks.report.values import number, text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["HealthStrip", "strips_of"]

_MOST_ATTEMPTS = 60


@frozen(kw_only=True)
class AttemptBar:
    """One request to the health endpoint. ``height`` is its share of the slowest one's latency."""

    at: str
    status: str
    tone: Meaning
    latency_ms: int | None
    http_status: int | None
    detail: str
    height: float


@frozen(kw_only=True)
class HealthStrip:
    """The health checks of one gate, watch or rollback, oldest first; it made ``total`` of them.

    ``unit`` is the name of one check: an attempt or a sample.
    """

    title: str
    unit: str
    tone: Meaning
    detail: str
    url: str
    attempts: list[AttemptBar]
    total: int
    slowest_ms: int


def strips_of(
    checks: Sequence[Check], events: Sequence[dict[str, Any]], rollbacks: Sequence[Rollback]
) -> list[HealthStrip]:
    """Return a strip for each gate, watch and rollback that checked health, by time."""
    strips = []
    for check in checks:
        found = check.diagnostics
        if isinstance(found.get("history"), list):
            tone: Meaning = "good" if check.status == "passed" else "bad"
            found = {**found, "detail": check.detail}
            strips.append(_strip(f"Gate {text(check.id, 128)}", tone, found))
    for event in events:
        if event.get("event") == "watch.degraded":
            counts = event.get("counts")
            samples = counts.get("looks") if isinstance(counts, dict) else None
            found = {"detail": event.get("detail"), "history": event.get("samples"), "attempts": samples}
            strips.append(_strip("Watch after the deploy", "bad", found, unit="sample"))
    for rollback in rollbacks:
        if isinstance(rollback.health, dict):
            found = rollback.health
            tone = meaning_of(text(found.get("status"), 40)) if found.get("passed") is True else "bad"
            strips.append(_strip("After the rollback", tone, found))
    return strips[:12]


def _strip(title: str, tone: Meaning, found: dict[str, Any], unit: str = "attempt") -> HealthStrip:
    items = found["history"] if isinstance(found.get("history"), list) else []
    known = [item for item in items if isinstance(item, dict)][:_MOST_ATTEMPTS]
    slowest = max((number(item.get("latencyMs")) or 0 for item in known), default=0)
    return HealthStrip(
        title=title,
        unit=unit,
        tone=tone,
        detail=text(found.get("detail")),
        url=text(found.get("url"), 500),
        attempts=[_attempt(item, slowest) for item in known],
        total=max(number(found.get("attempts")) or 0, len(known)),
        slowest_ms=slowest,
    )


def _attempt(item: dict[str, Any], slowest: int) -> AttemptBar:
    latency = number(item.get("latencyMs"))
    status = text(item.get("status") or item.get("health") or item.get("finding"), 40)
    tone = meaning_of(text(item["finding"], 40) if "finding" in item else status)
    if "finding" not in item and item.get("passed") is False and status != "degraded":
        tone = "bad"
    return AttemptBar(
        at=text(item.get("at") or item.get("time"), 40),
        status=status,
        tone=tone,
        latency_ms=latency,
        http_status=number(item.get("httpStatus")),
        detail=text(item.get("detail"), 200),
        height=min(max((latency or 0) / slowest if slowest > 0 else 0.0, 0.08), 1.0),  # a fast answer stays visible
    )
