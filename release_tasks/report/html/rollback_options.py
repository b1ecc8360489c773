"""How to get back to the state before a release: the exact commands, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.records import Manifest
from release_tasks.report.html.notifications import text
from release_tasks.report.html.page import Rollback, Snapshot, WayBack

__all__ = ["way_back_of"]

_OTHERS = [("See what else there is to go back to", "inv release.status")]
_CODE = "A rollback restores state, not code."


def way_back_of(
    pipeline: Pipeline,
    manifest: Manifest | None,
    before: Manifest | None,
    snapshot: Snapshot | None,
    rollbacks: Sequence[Rollback],
) -> WayBack:
    """Return what to type; ``before`` is the release whose code belongs to the state that comes back."""
    if manifest is None and snapshot is None:
        told = "Which snapshot belongs to this release cannot be told, as its manifest cannot be read."
        return WayBack(tone="warn", sentence=told, commands=_OTHERS)
    if manifest is not None and snapshot is None:
        return WayBack(
            tone="quiet",
            sentence="Nothing was captured, so there is nothing to go back to; nothing live was changed.",
            commands=[("Try again, once it is mended", f"inv release.prepare --release-id {manifest.release_id}")],
        )
    assert snapshot is not None
    if not snapshot.is_there:
        return WayBack(tone="warn", sentence=f"Its snapshot {snapshot.snapshot_id} is gone.", commands=_OTHERS)
    if not snapshot.is_restorable:
        return WayBack(
            tone="bad",
            sentence="A rollback to its snapshot is refused before anything is touched.",
            commands=[("What is wrong with it", f"inv release.verify --snapshot {snapshot.snapshot_id}"), *_OTHERS],
        )
    return _possible(pipeline, before, snapshot, rollbacks)


def _possible(
    pipeline: Pipeline, before: Manifest | None, snapshot: Snapshot, rollbacks: Sequence[Rollback]
) -> WayBack:
    effective = [rollback for rollback in rollbacks if rollback.took_effect]
    force = " --force" if snapshot.needs_force else ""
    command = f"inv release.rollback --snapshot {snapshot.snapshot_id}"
    commands = [
        ("Go back to the state before this release", command + force),
        ("See first what would change", f"{command} --plan"),
        ("Rehearse it, nothing live touched", f"inv release.drill --snapshot {snapshot.snapshot_id}"),
    ]
    kept = "What was written since it was taken is not in it; a rollback keeps that in a safety snapshot first."
    notes = [_code_note(before), kept]
    if not effective:
        names = ", ".join(asset.key for asset in snapshot.assets)
        return WayBack(tone="good", sentence=f"Restores {names}, whole or not at all.", commands=commands, notes=notes)
    safety = effective[-1].safety_snapshot_id
    if safety and pipeline.catalogue.store.folder.joinpath(safety, "metadata.json").is_file():
        commands.insert(0, ("Undo the rollback", f"inv release.rollback --snapshot {safety}"))
    told = "This release was rolled back already."
    return WayBack(tone="warn", sentence=told, commands=commands, notes=notes)


def _code_note(before: Manifest | None) -> str:
    if before is None:
        return f"{_CODE} Put the code that belongs to it back yourself."
    version = text(before.app_version, 100) or "unknown version"
    commit = f"commit {(before.git_commit or '')[:12]}" if before.git_commit else ""
    known = ", ".join(part for part in (version, commit) if part and part != before.release_id)
    return f"{_CODE} Put that of {before.release_id}{f' ({known})' if known else ''} back first."
