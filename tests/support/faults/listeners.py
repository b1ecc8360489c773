"""Consumers of a stage's events that call a test's function."""

from __future__ import annotations

from collections.abc import Callable

from release_tasks.core.events import Emit, Event, SampleTaken, StepBegan

__all__ = ["on_samples", "on_steps"]


def on_steps(act: Callable[[str], object]) -> Emit:
    """Return a consumer that calls ``act`` with the text of each step that starts."""

    def emit(event: Event) -> None:
        if isinstance(event, StepBegan):
            act(str(event))

    return emit


def on_samples(act: Callable[[SampleTaken], object]) -> Emit:
    """Return a consumer that calls ``act`` with each sample of a watch."""

    def emit(event: Event) -> None:
        if isinstance(event, SampleTaken):
            act(event)

    return emit
