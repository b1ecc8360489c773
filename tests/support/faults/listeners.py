"""Consumers of a stage's events that call a test's function."""

from __future__ import annotations

from collections.abc import Callable

from release_tasks.core.events import Emit, Event, StepBegan

__all__ = ["on_steps"]


def on_steps(act: Callable[[str], object]) -> Emit:
    """Return a consumer that calls ``act`` with the text of each step that starts."""

    def emit(event: Event) -> None:
        if isinstance(event, StepBegan):
            act(str(event))

    return emit
