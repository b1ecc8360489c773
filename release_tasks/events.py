"""The events that a stage emits, under their public name."""

from release_tasks.core.events import *  # noqa: F403
from release_tasks.core.events import __all__ as __all__
