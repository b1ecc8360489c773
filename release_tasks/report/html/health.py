"""How health was: every attempt that a gate, a watch or a rollback recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from release_tasks.core.records import Check
from release_tasks.report.html.notifications import number, text, tone_of
from release_tasks.report.html.page import Attempt, HealthStrip, Rollback, Tone

__all__ = ["strips_of"]

_MOST_ATTEMPTS = 60
_MOST_STRIPS = 12
_LOWEST = 0.08  # a fast answer is still seen


def strips_of(
    checks: Sequence[Check], events: Sequence[dict[str, Any]], rollbacks: Sequence[Rollback]
) -> list[HealthStrip]:
    """Return a strip for each occasion on which health was asked, in the order of time."""
    strips = [_of_gate(check) for check in checks if isinstance(check.diagnostics.get("history"), list)]
    strips += [_of_watch(event) for event in events if event.get("event") == "watch.degraded"]
    strips += [_of_rollback(r, r.health) for r in rollbacks if isinstance(r.health, dict)]
    return strips[:_MOST_STRIPS]


def _of_gate(check: Check) -> HealthStrip:
    told = check.diagnostics
    return _strip(
        occasion=f"Gate {text(check.id, 128)}",
        tone="good" if check.status == "passed" else "bad",
        detail=text(check.detail),
        url=text(told.get("url"), 500),
        attempts=told["history"],
        total=number(told.get("attempts")),
    )


def _of_rollback(rollback: Rollback, told: dict[str, Any]) -> HealthStrip:
    status = text(told.get("status"), 40)
    return _strip(
        occasion="After the rollback",
        tone=tone_of(status) if told.get("passed") is True else "bad",
        detail=text(told.get("detail")),
        url=text(told.get("url"), 500),
        attempts=told.get("history"),
        total=number(told.get("attempts")),
    )


def _of_watch(event: dict[str, Any]) -> HealthStrip:
    counts = event.get("counts")
    return _strip(
        occasion="Watch after the deploy",
        unit="look",
        tone="bad",
        detail=text(event.get("detail")),
        url="",
        attempts=event.get("samples"),
        total=number(counts.get("looks")) if isinstance(counts, dict) else None,
    )


def _strip(
    *, occasion: str, tone: Tone, detail: str, url: str, attempts: Any, total: int | None, unit: str = "attempt"
) -> HealthStrip:
    told = [item for item in attempts if isinstance(item, dict)] if isinstance(attempts, list) else []
    told = told[:_MOST_ATTEMPTS]
    slowest = max((number(item.get("latencyMs")) or 0 for item in told), default=0)
    total = len(told) if total is None else max(total, len(told))
    return HealthStrip(
        occasion=occasion,
        unit=unit,
        tone=tone,
        detail=detail,
        url=url,
        attempts=[_attempt(item, slowest) for item in told],
        total=total,
        left_out=total - len(told),
        slowest_ms=slowest,
    )


def _attempt(item: dict[str, Any], slowest: int) -> Attempt:
    latency = number(item.get("latencyMs"))
    status = text(item.get("status") or item.get("health") or item.get("finding"), 40)
    share = (latency or 0) / slowest if slowest > 0 else 0.0
    return Attempt(
        at=text(item.get("at") or item.get("time"), 40),
        status=status,
        tone=_tone(item, status),
        latency_ms=latency,
        http_status=number(item.get("httpStatus")),
        detail=text(item.get("detail"), 200),
        height=min(max(share, _LOWEST), 1.0),
    )


def _tone(item: dict[str, Any], status: str) -> Tone:
    if "finding" in item:
        return tone_of(text(item["finding"], 40))
    return "bad" if item.get("passed") is False and status != "degraded" else tone_of(status)
