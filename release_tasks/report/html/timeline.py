"""The timeline of a release: the phases of its prepare, and the later drills, watches and rollbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from release_tasks.core.records import Manifest
from release_tasks.report.html.gates import tone_of_check
from release_tasks.report.html.history import Rollback
from release_tasks.report.values import moment, number, seconds_between, text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["Timeline", "timeline_of"]

_ROLLBACKS = {
    "restored": "Rolled back to the state before it",
    "live": "Rolled back, but the service did not become healthy",
    "noop": "Rollback found the state already live",
    "in_progress": "Rollback started, and its end is not recorded",
}


@frozen(kw_only=True)
class Bar:
    """A phase of the prepare, or a gate of its preflight. ``begin`` and ``length`` are shares of the total time."""

    name: str
    tone: Meaning
    seconds: float
    begin: float
    length: float
    is_gate: bool


@frozen
class Step:
    """A drill, watch or rollback after the prepare; ``seconds`` is its duration, None if unknown."""

    at: str
    what: str
    tone: Meaning
    detail: str
    seconds: float | None


@frozen(kw_only=True)
class Timeline:
    """The phases of the prepare, which took ``seconds``, and the steps after it."""

    bars: list[Bar]
    steps: list[Step]
    seconds: float


def timeline_of(
    manifest: Manifest | None,
    events: Sequence[dict[str, Any]],
    drills: Sequence[dict[str, Any]],
    rollbacks: Sequence[Rollback],
) -> Timeline:
    """Return the phases of the prepare, then the drills, watches and rollbacks of the release by time."""
    steps = []
    for event in events:
        # A watch that found a release degraded has two events, before and after its rollback. The first one is shown.
        is_end = event.get("event") == "watch.finished" and event.get("status") != "degraded"
        if is_end or event.get("event") == "watch.degraded":
            steps.append(_step(event, "Watched: "))
    for event in drills:
        booted = ", and a service started on it was healthy" if event.get("booted") is True else ""
        duration = number(event.get("durationMs"))
        steps.append(_step(event, "Drill ", booted, duration / 1000 if duration is not None else None))
    for rollback in rollbacks:
        detail = "" if rollback.detail in ("", rollback.status) else f": {rollback.detail}"
        at = rollback.started_at or rollback.finished_at or ""
        what = _ROLLBACKS.get(rollback.status, f"Rollback {rollback.status}")
        tone: Meaning = "warn" if rollback.status == "restored" else meaning_of(rollback.status)
        steps.append(Step(at, what, tone, f"by {rollback.actor}{detail}", rollback.seconds))
    bars, seconds = _bars(manifest)
    return Timeline(bars=bars, steps=sorted(steps, key=lambda step: step.at)[-40:], seconds=seconds)


def _bars(manifest: Manifest | None) -> tuple[list[Bar], float]:
    """Return phases and gates with their times, the gates after their preflight, and the total time."""
    if manifest is None:
        return [], 0.0
    phases = [(text(p.name, 64), None, p.started_at, p.completed_at) for p in manifest.phases]
    gates = [(text(c.id, 128), c, c.started_at, c.completed_at) for c in manifest.preflight.checks]
    before = [phase for phase in phases if phase[0] == "preflight"]
    after = [phase for phase in phases if phase[0] != "preflight"]
    spans = [
        (name, check, start, end, seconds)
        for name, check, start, end in (*before, *gates, *after)
        if start and end and (seconds := seconds_between(start, end)) is not None
    ]
    if not spans:
        return [], 0.0
    first = min(span[2] for span in spans)
    total = seconds_between(first, max(span[3] for span in spans)) or 0.0
    bars = [
        Bar(
            name=name,
            tone="quiet" if check is None else tone_of_check(check),
            seconds=seconds,
            begin=(seconds_between(first, start) or 0.0) / total if total else 0.0,
            length=seconds / total if total else 1.0,
            is_gate=check is not None,
        )
        for name, check, start, _, seconds in spans
    ]
    return bars, total


def _step(event: dict[str, Any], what: str, more: str = "", seconds: float | None = None) -> Step:
    status, at = text(event.get("status"), 40), text(event.get("time"), 40)
    detail = text(event.get("detail"), 500) + more
    return Step(at if moment(at) else "", what + status, meaning_of(status), detail, seconds)
