"""The task ``release.report``: one release as an HTML page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.core.errors import UsageError
from release_tasks.tasks.achieved import prepared_release
from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import output_flag, text_flag
from release_tasks.tasks.session import session

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings

__all__ = ["report"]


@stage(
    help={
        "release_id": "The release to report on; the latest one, ready or blocked, when left out.",
        "output": "Write the page to this file instead of reports/ in the pipeline folder.",
    }
)
def report(ctx: Context, release_id: str | None = None, output: str | None = None, json: bool = False) -> None:
    """Write a self-contained HTML page of a release: gates, health, snapshot, rollback options, history, audit."""
    with session(ctx, json) as current:
        if importlib.util.find_spec("jinja2") is None:
            raise UsageError("release.report needs an extra: pip install 'release-tasks[report]'")
        from release_tasks.core.durable import write_atomic
        from release_tasks.report.html.page import find_release, gather
        from release_tasks.report.html.render import render

        pipeline = current.pipeline
        file = find_release(pipeline, text_flag("release-id", release_id) or prepared_release(ctx))
        target = _target(current.settings, text_flag("output", output), file.release_id)
        if current.is_dry:
            current.answer({"status": "dry", "releaseId": file.release_id, "output": str(target)})
            current.screen.line(f"Would write the page of {file.release_id} to {target}")
            return
        current.screen.step(f"read the records of {file.release_id} and verify its snapshot")
        page = gather(current.settings, file)
        write_atomic(target, render(page))
        word = page.verdict.word
        current.answer(
            {"status": "written", "releaseId": file.release_id, "verdict": word, "output": str(target)},
            lambda screen: screen.verdict("written", f"{file.release_id}, {word}: {target}"),
        )


def _target(settings: Settings, given: str | None, release_id: str) -> Path:
    """Return the path of the page; raises UsageError for a path that cannot or must not be written."""
    if given is None:
        return settings.release.root / "reports" / f"{release_id}.html"
    target = output_flag(settings, "output", given)
    if target.is_dir() or given.endswith("/"):
        raise UsageError(f"--output: {given!r} is a directory. Name a file in it, such as {release_id}.html.")
    if not target.parent.is_dir():
        raise UsageError(f"--output: {target.parent} does not exist. Create this directory, or name a file elsewhere.")
    return target
