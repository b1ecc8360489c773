"""The task ``release.extract``: the assets of a snapshot as plain files in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.core.errors import UsageError
from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import path_flag, text_flag
from release_tasks.tasks.session import session

if TYPE_CHECKING:
    from release_tasks.report.screen import Screen
    from release_tasks.stages.extract import Extraction

__all__ = ["extract"]


@stage(
    help={
        "snapshot": "The snapshot to extract; the latest release snapshot when left out.",
        "asset": "Extract only the asset with this key.",
        "to": "The folder to write to; created when it does not exist.",
    }
)
def extract(
    ctx: Context, snapshot: str | None = None, asset: str | None = None, to: str | None = None, json: bool = False
) -> None:
    """Write a snapshot as plain files and databases into a folder, verified; nothing live is changed."""
    with session(ctx, json) as current:
        from release_tasks.stages.extract import extract_snapshot, find_extraction

        if to is None:
            raise UsageError("--to: name the folder to write to.")
        folder = path_flag("to", text_flag("to", to) or "", "folder")
        name, key = text_flag("snapshot", snapshot), text_flag("asset", asset)
        if current.is_dry:
            found = find_extraction(current.settings, name, key, folder)[1]
            current.answer(found, lambda screen: _show_dry(screen, found), status="dry")
            return
        with current.progress() as emit:
            found = extract_snapshot(current.settings, name, folder, key=key, emit=emit)
        current.answer(found, lambda screen: _show(screen, found), status="extracted")


def _show_dry(screen: Screen, found: Extraction) -> None:
    size = sum(asset.size for asset in found.assets)
    screen.line(f"Would write {len(found.assets)} assets of {found.snapshot_id} ({size} bytes) to {found.folder}.")


def _show(screen: Screen, found: Extraction) -> None:
    screen.verdict("extracted", f"{found.snapshot_id} to {found.folder}; every digest is as recorded.")
    screen.table(("ASSET", "BYTES", "PATH"), [(asset.key, str(asset.size), asset.path) for asset in found.assets])
    if found.absent:
        screen.note(f"Did not exist at snapshot time: {', '.join(found.absent)}")
