"""What is asked of a service that a drill starts: the questions of the live service, at the drill's host and port."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from attrs import evolve

from release_tasks.config.endpoint import Question
from release_tasks.config.schema import DrillConfig, ReleaseConfig
from release_tasks.core.url import origin_of, shown_url

__all__ = ["boot_questions"]


def boot_questions(release: ReleaseConfig) -> tuple[list[Question], list[str]]:
    """Return the questions, whose URLs contain ``{port}``, and a note for each gate that cannot be asked.

    A gate is asked if it has the host and port of the health endpoint, or of the first gate where there is no endpoint.
    """
    health, live = release.health, release.questions
    endpoint = Question(url=release.drill.health, request=health, expect=health.expect)
    gates = [question for question in live if question.gate is not None]
    near = [gate for gate in gates if origin_of(gate.url) == origin_of(live[0].url)]
    notes = [
        f"Gate {gate.gate} was not asked of the started service: {shown_url(gate.url)} has another host or port than "
        f"{shown_url(live[0].url)}."
        for gate in gates
        if gate not in near
    ]
    asked = [evolve(gate, url=_at(gate.url, release.drill.health)) for gate in near]
    # A service without a health URL need not have the default one either.
    has_endpoint = health.url is not None or release.drill.health != DrillConfig().health or not asked
    return ([endpoint, *asked] if has_endpoint else asked), notes


def _at(url: str, other: str) -> str:
    """Return ``url`` at the host and port of ``other``."""
    return urlunsplit((*urlsplit(other)[:2], *urlsplit(url)[2:]))
