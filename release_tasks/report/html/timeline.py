"""The timeline of a release: the phases of its prepare, and the later drills, watches and rollbacks."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from release_tasks.core.records import Check, Manifest, Phase
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
    """Return the phases of the prepare, then the drills, watches and rollbacks of the release.

    Steps of one log are in its order, whatever their times: the clock may have been set back. Only the drills, which
    have a log of their own, are placed by time.
    """
    steps: list[tuple[int, Step]] = []
    drilled = []
    for event in events:
        # A watch that found a release degraded has two events, before and after its rollback. The first one is shown.
        is_end = event.get("event") == "watch.finished" and event.get("status") != "degraded"
        if is_end or event.get("event") == "watch.degraded":
            steps.append((number(event.get("seq")) or 0, _step(event, "Watched: ")))
    for event in drills:
        booted = ", and a service started on it was healthy" if event.get("booted") is True else ""
        duration = number(event.get("durationMs"))
        drilled.append(_step(event, "Drill ", booted, duration / 1000 if duration is not None else None))
    for rollback in rollbacks:
        detail = "" if rollback.detail in ("", rollback.status) else f": {rollback.detail}"
        at = rollback.started_at or rollback.finished_at or ""
        what = _ROLLBACKS.get(rollback.status, f"Rollback {rollback.status}")
        tone: Meaning = "warn" if rollback.status == "restored" else meaning_of(rollback.status)
        steps.append((rollback.seq, Step(at, what, tone, f"by {rollback.actor}{detail}", rollback.seconds)))
    recorded = [step for _, step in sorted(steps, key=lambda step: step[0])]
    bars, seconds = _bars(manifest)
    return Timeline(
        bars=bars, steps=list(heapq.merge(recorded, drilled, key=lambda step: step.at))[-40:], seconds=seconds
    )


def _bars(manifest: Manifest | None) -> tuple[list[Bar], float]:
    """Return the phases one after the other, the gates within their preflight, and the total time.

    Measured durations count, because the clock may have been set during the prepare.
    """
    if manifest is None:
        return [], 0.0
    spans: list[tuple[str, Check | None, float, float]] = []  # name, gate, begin and length in seconds
    total = 0.0
    for phase in manifest.phases:
        if (seconds := _seconds(phase)) is not None:
            spans.append((text(phase.name, 64), None, total, seconds))
            if phase.name == "preflight":
                spans += _gates(manifest.preflight.checks, phase.started_at, total, seconds)
            total += seconds
    if not any(check for _, check, _, _ in spans):
        starts = [check.started_at for check in manifest.preflight.checks if check.started_at]
        gates = _gates(manifest.preflight.checks, min(starts, default=""), 0.0, math.inf)
        spans = [*gates, *spans]
        total = max([total, *(begin + seconds for _, _, begin, seconds in gates)])
    bars = [
        Bar(
            name=name,
            tone="quiet" if check is None else tone_of_check(check),
            seconds=seconds,
            begin=begin / total if total else 0.0,
            length=seconds / total if total else 1.0,
            is_gate=check is not None,
        )
        for name, check, begin, seconds in spans
    ]
    return bars, total


def _gates(
    checks: Sequence[Check], preflight: str, begin: float, longest: float
) -> list[tuple[str, Check | None, float, float]]:
    """Return the gates of a preflight that started at the time ``preflight`` and took ``longest`` seconds."""
    gates: list[tuple[str, Check | None, float, float]] = []
    for check in checks:
        if (seconds := _seconds(check)) is not None:
            offset = seconds_between(preflight, check.started_at) or 0.0
            gates.append((text(check.id, 128), check, begin + max(min(offset, longest - seconds), 0.0), seconds))
    return gates


def _seconds(part: Check | Phase) -> float | None:
    """Return the measured duration; from start and end in records of earlier versions; None when it is unknown."""
    if not part.started_at:
        return None
    return seconds_between(part.started_at, part.completed_at) if part.duration_ms is None else part.duration_ms / 1000


def _step(event: dict[str, Any], what: str, more: str = "", seconds: float | None = None) -> Step:
    status, at = text(event.get("status"), 40), text(event.get("time"), 40)
    detail = text(event.get("detail"), 500) + more
    return Step(at if moment(at) else "", what + status, meaning_of(status), detail, seconds)
