"""Acting on what a stage tells."""

from __future__ import annotations

from collections.abc import Callable

from release_tasks.core.events import Emit, Event, SampleTaken, StepBegan


def at_steps(act: Callable[[str], object]) -> Emit:
    """Return a consumer that calls ``act`` with the words of each step that begins."""

    def tell(event: Event) -> None:
        if isinstance(event, StepBegan):
            act(str(event))

    return tell


def at_looks(act: Callable[[SampleTaken], object]) -> Emit:
    """Return a consumer that calls ``act`` with each look of a watch."""

    def tell(event: Event) -> None:
        if isinstance(event, SampleTaken):
            act(event)

    return tell
