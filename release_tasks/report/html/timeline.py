"""The time of a release: the phases of its prepare, and what happened to it since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from release_tasks.core.records import Check, Manifest
from release_tasks.report.html.notifications import moment, number, seconds_between, text, tone_of
from release_tasks.report.html.page import Bar, Course, Rollback, Step, Tone

__all__ = ["course_of"]

_MOST_BARS = 40
_MOST_STEPS = 40
_ROLLBACKS = {
    "restored": "Rolled back to the state before it",
    "live": "Rolled back, and the service did not get well",
    "noop": "Rollback found the state in place",
    "in_progress": "Rollback began, and its end is not recorded",
}


def course_of(
    manifest: Manifest | None,
    events: Sequence[dict[str, Any]],
    drills: Sequence[dict[str, Any]],
    rollbacks: Sequence[Rollback],
) -> Course:
    """Return what the prepare did when, then drills, watches and rollbacks of the release in the order of time."""
    steps = [_of_watch(event) for event in events if _ends_watch(event)]
    steps += [_of_drill(event) for event in drills]
    steps += [_of_rollback(rollback) for rollback in rollbacks]
    steps = sorted(steps, key=lambda step: step.at)[-_MOST_STEPS:]
    spans = _spans(manifest) if manifest is not None else []
    if not spans:
        return Course(bars=[], steps=steps)
    first, last = min(span[2] for span in spans), max(span[3] for span in spans)
    whole = seconds_between(first, last) or 0.0
    bars = [_bar(name, tone, start, end, first, whole, is_gate) for name, tone, start, end, is_gate in spans]
    return Course(
        bars=bars[:_MOST_BARS],
        more_bars=max(len(bars) - _MOST_BARS, 0),
        steps=steps,
        started_at=first,
        seconds=whole,
    )


_Span = tuple[str, Tone, str, str, bool]


def _spans(manifest: Manifest) -> list[_Span]:
    """Return phases and gates with their times, the gates below the preflight that ran them."""
    gates: list[_Span] = [
        (text(check.id, 128), _tone(check), check.started_at, check.completed_at, True)
        for check in manifest.preflight.checks
        if check.started_at and check.completed_at and _is_span(check.started_at, check.completed_at)
    ]
    phases: list[_Span] = [
        (text(phase.name, 64), "quiet", phase.started_at, phase.completed_at, False)
        for phase in manifest.phases
        if _is_span(phase.started_at, phase.completed_at)
    ]
    before = [phase for phase in phases if phase[0] == "preflight"]
    return [*before, *gates, *(phase for phase in phases if phase not in before)]


def _is_span(start: str, end: str) -> bool:
    return seconds_between(start, end) is not None


def _tone(check: Check) -> Tone:
    if check.status == "passed":
        return "good"
    return "warn" if check.advisory or check.status == "skipped" else "bad"


def _bar(name: str, tone: Tone, start: str, end: str, first: str, whole: float, is_gate: bool) -> Bar:
    seconds = seconds_between(start, end) or 0.0
    begin = (seconds_between(first, start) or 0.0) / whole if whole else 0.0
    length = seconds / whole if whole else 1.0
    return Bar(name=name, tone=tone, seconds=seconds, begin=begin, length=length, is_gate=is_gate)


def _ends_watch(event: dict[str, Any]) -> bool:
    # What a degraded release led to stands between its two events, so the first of them is the one to tell.
    is_over = event.get("event") == "watch.finished" and event.get("status") != "degraded"
    return is_over or event.get("event") == "watch.degraded"


def _of_watch(event: dict[str, Any]) -> Step:
    status = text(event.get("status"), 40)
    return Step(at=_time(event), what=f"Watched: {status}", tone=tone_of(status), detail=text(event.get("detail"), 500))


def _of_drill(event: dict[str, Any]) -> Step:
    status = text(event.get("status"), 40)
    booted = ", and a service got healthy on it" if event.get("booted") is True else ""
    took = number(event.get("durationMs"))
    return Step(
        at=_time(event),
        what=f"Drill {status}",
        tone=tone_of(status),
        detail=text(event.get("detail"), 500) + booted,
        seconds=took / 1000 if took is not None else None,
    )


def _of_rollback(rollback: Rollback) -> Step:
    detail = "" if rollback.detail == rollback.status else rollback.detail
    return Step(
        at=rollback.started_at or rollback.ended_at or "",
        what=_ROLLBACKS.get(rollback.status, f"Rollback {rollback.status}"),
        tone="warn" if rollback.status == "restored" else tone_of(rollback.status),
        detail=f"by {rollback.actor}: {detail}" if detail else f"by {rollback.actor}",
        seconds=rollback.seconds,
    )


def _time(event: dict[str, Any]) -> str:
    told = text(event.get("time"), 40)
    return told if moment(told) else ""
