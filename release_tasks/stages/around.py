"""What several stages have around them: a look at the configuration, and notices of how they end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.stages.notifications.sending import Notices
from release_tasks.stages.notifications.wording import about_failure

__all__ = ["notified", "require_assets"]


@contextlib.contextmanager
def notified(settings: Settings, given: Notices | None, stage: str, release_id: str | None = None) -> Iterator[Notices]:
    """Give the block ``given`` to announce with, or notices that are waited for at its end.

    StageFailed is told as ``failed`` and goes on its way. What ends with a usage error, at another run's lock or by a
    signal is told to nobody but who typed it.
    """
    with contextlib.nullcontext(given) if given is not None else Notices(settings) as notices:
        try:
            yield notices
        except StageFailed as error:
            sentence = error.message
            notices.announce(lambda: about_failure(settings, stage, sentence, release_id=release_id))
            raise


def require_assets(settings: Settings) -> None:
    """Raise UsageError where the configuration names no state at all."""
    if not settings.release.assets:
        raise UsageError(
            f"release.assets names nothing to capture or restore (in {settings.project}). "
            "Name the database, folders and files of the service."
        )
