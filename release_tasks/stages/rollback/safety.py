"""What an operator must know about the safety snapshot: the space it takes, what it lacks, a rollback without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from release_tasks.archive.capacity import capture_needs, restore_needs, shortages
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageError
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.typed import typed

__all__ = [
    "WITHOUT_SAFETY",
    "advise_without_safety",
    "find_shortages",
    "list_names",
    "notes_on_gaps",
    "notes_on_safety",
    "undo_option",
]

WITHOUT_SAFETY = "Without a safety snapshot (--without-safety) this rollback cannot be undone."

_SAFETY = "the safety copy"
_MAX_NAMES = 5
_MAX_NAME = 100  # characters


def find_shortages(
    settings: Settings,
    pipeline: Pipeline,
    target: SnapshotMetadata,
    restored: list[str],
    *,
    without_safety: bool = False,
) -> list[str]:
    """Return the limits that a rollback of the assets ``restored`` would exceed, one sentence each."""
    folder, assets = pipeline.catalogue.path(target.snapshot_id), settings.release.assets
    safety = [] if without_safety else capture_needs(pipeline.catalogue.store.folder, assets, _SAFETY)
    restore = restore_needs(target, folder, {key: assets[key] for key in restored})
    lines = [f"{problem} The rollback would fail and change nothing." for problem in shortages([*safety, *restore])]
    if lines and not shortages(restore):
        lines.append(advise_without_safety(target))
    return lines


def advise_without_safety(target: SnapshotMetadata) -> str:
    """Return the sentence for a rollback that has no space for its safety snapshot."""
    command = typed("release.rollback", "--snapshot", target.snapshot_id, "--without-safety")
    return f"Free some space, or restore without a safety copy: {command}"


def notes_on_safety(safety: SnapshotMetadata | None) -> list[str]:
    """Return notes on the safety snapshot: that there is none, what it lacks, what a plugin could not capture."""
    if safety is None:
        return [WITHOUT_SAFETY]
    return notes_on_gaps(safety.assets, safety.snapshot_id)


def notes_on_gaps(records: Iterable[AssetRecord], holder: str) -> list[str]:
    """Return notes on what a capture could not copy, copied while it changed, or took without a plugin."""
    notes = []
    for record in records:
        if record.plugin_problem is not None:
            notes.append(f"{record.key}: {holder} contains a plain copy. {record.plugin_problem}")
        if record.left_out:
            count = record.left_out_count or len(record.left_out)
            names = f"{count} entries that cannot be copied" if count > 1 else "an entry that cannot be copied"
            notes.append(f"{record.key}: {holder} lacks {names}: {list_names(record.left_out, count)}.")
        if record.unstable:
            changed = list_names(record.unstable, len(record.unstable))
            notes.append(f"{record.key}: {holder} contains files as they were while they changed: {changed}.")
    return notes


def undo_option(safety: SnapshotMetadata | None, settings: Settings, pipeline: Pipeline) -> str:
    """Return the command that undoes a rollback, or the path of the remains of the damaged state."""
    if safety is None:
        return WITHOUT_SAFETY
    remains = [captured for captured in safety.assets if captured.damaged]
    if remains:
        folder = pipeline.catalogue.path(safety.snapshot_id) / remains[0].relative_path
        return f"The state before the rollback was damaged ({remains[0].key}); its remains are in {folder}."
    unverified: list[str] = []
    with contextlib.suppress(StageError, OSError):
        # Where keys are configured and the private one is not here, the safety snapshot could not be signed.
        unverified = ["--unverified"] if Provenance(settings, pipeline).compare_with_signature(safety) else []
    return f"To undo this rollback: {typed('release.rollback', '--snapshot', safety.snapshot_id, *unverified)}"


def list_names(names: list[str], count: int) -> str:
    """Return the first of ``count`` names, shortened for a message."""
    shown = ", ".join(excerpt_line(name, _MAX_NAME) for name in names[:_MAX_NAMES])
    return f"{shown}{', ...' if count > _MAX_NAMES else ''}"
