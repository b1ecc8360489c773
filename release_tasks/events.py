"""The events that a stage emits, under their public names."""

from release_tasks.core.events import *  # noqa: F403
from release_tasks.core.events import __all__ as __all__
