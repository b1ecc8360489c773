"""What every stage has around it: assets to act on, and notices of how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_failure

__all__ = ["require_assets", "stage"]


@contextlib.contextmanager
def stage(
    settings: Settings,
    pipeline: Pipeline,
    name: str,
    given: Notifications | None = None,
    *,
    release_id: str | None = None,
    needs_assets: bool = True,
) -> Iterator[Notifications]:
    """Give the block ``given`` to announce with, or notices that are waited for at its end.

    StageFailed is announced as ``failed`` and re-raised. A usage error, the lock of another run and a signal are not
    announced: the person who typed the command sees them. Raises UsageError for a stage that ``needs_assets`` where the
    configuration names none.
    """
    if needs_assets:
        require_assets(settings)
    with contextlib.nullcontext(given) if given is not None else Notifications(settings, pipeline=pipeline) as notices:
        try:
            yield notices
        except StageFailed as error:
            sentence = error.message
            notices.announce(lambda: about_failure(settings, name, sentence, release_id=release_id))
            raise


def require_assets(settings: Settings) -> None:
    """Raise UsageError where the configuration names no state at all."""
    if not settings.release.assets:
        raise UsageError(
            f"release.assets names nothing to capture or restore (in {settings.project}). "
            "Name the database, folders and files of the service."
        )
