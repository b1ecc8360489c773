"""The baseline: the state of a service at prepare time, for later comparison."""

from __future__ import annotations

import statistics

from release_tasks.config.schema import ReleaseConfig
from release_tasks.core.records import Baseline
from release_tasks.service.asking import Answer, ask, worst_of
from release_tasks.service.reliability import fetch_reliability

__all__ = ["measure_baseline"]

_PROBES = 3


def measure_baseline(config: ReleaseConfig) -> Baseline | None:
    """Ask for the health a few times and for reliability once. Returns None when nothing can be asked. Raises nothing.

    The latency is that of the first question, the status that of the worst answer.
    """
    if not config.questions and config.reliability.url is None:
        return None
    rounds: list[list[Answer]] = []
    while config.questions and len(rounds) < _PROBES and not (rounds and _has_gaps(rounds[-1])):
        rounds.append(ask(config.questions, config.health.timeout))
    firsts = [answers[0] for answers in rounds]
    elapsed = [answer.response.elapsed_ms for answer in firsts if answer.response is not None]
    forms = [answer.form for answer in firsts]
    reliability = fetch_reliability(config.reliability)
    return Baseline(
        health=_status(rounds),
        latency_ms=round(statistics.median(elapsed)) if elapsed and len(elapsed) == len(firsts) else None,
        pressure=reliability.pressure if reliability is not None else None,
        form=forms[-1] if forms and forms.count(forms[-1]) == _PROBES else None,
    )


def _has_gaps(answers: list[Answer]) -> bool:
    """Return whether a question got no answer: asking again would only take the time limit once more."""
    return any(answer.response is None for answer in answers)


def _status(rounds: list[list[Answer]]) -> str | None:
    """Return the worst status of the last round, or ``unreachable`` when a request of any round got no answer."""
    answers = [answer for answers in rounds for answer in answers]
    if not answers or any(answer.error == "invalid" for answer in answers):
        return None
    if _has_gaps(answers):
        return "unreachable"
    return worst_of([answer.report for answer in rounds[-1]]).status
