"""The task ``release.drill``: a rehearsal of the rollback in a scratch folder."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import path_flag, text_flag
from release_tasks.tasks.session import Session, session

__all__ = ["drill"]


@stage(
    help={
        "snapshot": "The snapshot to rehearse; the latest release snapshot when left out.",
        "boot": "Also start the service on the restored state, on a free port, and check its health.",
        "scratch": "Create the scratch folder in this folder instead of drills/ in the pipeline folder.",
    }
)
def drill(
    ctx: Context, snapshot: str | None = None, boot: bool = False, scratch: str | None = None, json: bool = False
) -> None:
    """Rehearse a rollback in a scratch copy, without live changes; exit 1 when the snapshot cannot be restored."""
    with session(ctx, json) as current:
        from release_tasks.core.codec import encode
        from release_tasks.report.answers import show_drill
        from release_tasks.stages.drill.engine import run_drill

        folder = text_flag("scratch", scratch)
        parent = path_flag("scratch", folder, "folder") if folder else None
        name = text_flag("snapshot", snapshot)
        if current.is_dry:
            _show_dry(current, name, parent, boot)
            return
        with current.progress() as emit:
            outcome = run_drill(current.settings, name, boot=boot, scratch=parent, emit=emit)
        document = encode(outcome)
        current.answer(document, lambda screen: show_drill(screen, document))
        current.fail_unless(outcome.status == "passed")


def _show_dry(current: Session, snapshot_id: str | None, folder: Path | None, boot: bool) -> None:
    from release_tasks.stages.drill.engine import service_of
    from release_tasks.stages.drill.scratch import require_safe_parent

    command = service_of(current.settings).shown if boot else None
    parent = current.pipeline.drills if folder is None else require_safe_parent(current.settings, folder)
    found = current.pipeline.catalogue.find(snapshot_id)
    size = sum(asset.size for asset in found.assets)
    current.answer(
        {"status": "dry", "snapshotId": found.snapshot_id, "size": size, "scratch": str(parent), "boot": command}
    )
    if not current.as_json:
        current.screen.line(f"Would restore {found.snapshot_id} ({size} bytes) into a new folder in {parent},")
        current.screen.line(f"compare it{f', start {command} on it' if command else ''} and delete the folder.")
