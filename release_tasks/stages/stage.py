"""The context of every stage: a check for configured assets, and notifications of the result."""

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
    notices: Notifications | None = None,
    *,
    release_id: str | None = None,
    needs_assets: bool = True,
) -> Iterator[Notifications]:
    """Yield ``notices`` to the block, or new notifications that are awaited at its end.

    StageFailed is notified as ``failed`` and re-raised. A usage error, a held lock and a signal are not notified: the
    person who typed the command sees them. Raises UsageError if the stage ``needs_assets`` and none are configured.
    """
    if needs_assets:
        require_assets(settings)
    with (
        contextlib.nullcontext(notices) if notices is not None else Notifications(settings, pipeline=pipeline)
    ) as notifications:
        try:
            yield notifications
        except StageFailed as error:
            message = error.message
            notifications.announce(lambda: about_failure(settings, name, message, release_id=release_id))
            raise


def require_assets(settings: Settings) -> None:
    """Raise UsageError when no assets are configured."""
    if not settings.release.assets:
        raise UsageError(
            f"release.assets is empty (in {settings.project}), so there is nothing to capture or restore. "
            "Add the database, folders and files of the service to it."
        )
