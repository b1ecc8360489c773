"""How to get back to the state before a release: the exact commands, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.records import Manifest
from release_tasks.report.html.rollbacks import Rollback
from release_tasks.report.html.snapshot import Snapshot
from release_tasks.report.html.values import text
from release_tasks.report.words import Meaning

__all__ = ["RollbackOptions", "rollback_options_of"]

_OTHERS = [("See what else there is to go back to", "inv release.status")]
_CODE = "A rollback restores state, not code."


@frozen
class RollbackOptions:
    """How to get back to the state before the release. ``commands`` are pairs of a purpose and what to type."""

    tone: Meaning
    sentence: str
    commands: list[tuple[str, str]]
    notes: list[str] = field(factory=list)


def rollback_options_of(
    pipeline: Pipeline,
    manifest: Manifest | None,
    before: Manifest | None,
    snapshot: Snapshot | None,
    rollbacks: Sequence[Rollback],
) -> RollbackOptions:
    """Return what to type; ``before`` is the release whose code belongs to the state that comes back."""
    if snapshot is None and manifest is None:
        sentence = "Which snapshot belongs to this release cannot be told, as its manifest cannot be read."
        return RollbackOptions("warn", sentence, _OTHERS)
    if snapshot is None:
        assert manifest is not None
        sentence = "Nothing was captured, so there is nothing to go back to; nothing live was changed."
        again = ("Try again, once it is mended", f"inv release.prepare --release-id {manifest.release_id}")
        return RollbackOptions("quiet", sentence, [again])
    if not snapshot.is_there:
        return RollbackOptions("warn", f"Its snapshot {snapshot.snapshot_id} is gone.", _OTHERS)
    if not snapshot.is_restorable:
        verify = ("What is wrong with it", f"inv release.verify --snapshot {snapshot.snapshot_id}")
        sentence = "A rollback to its snapshot is refused before anything is touched."
        return RollbackOptions("bad", sentence, [verify, *_OTHERS])
    command = f"inv release.rollback --snapshot {snapshot.snapshot_id}"
    commands = [
        ("Go back to the state before this release", command + (" --force" if snapshot.needs_force else "")),
        ("See first what would change", f"{command} --plan"),
        ("Rehearse it, nothing live touched", f"inv release.drill --snapshot {snapshot.snapshot_id}"),
    ]
    kept = "What was written since it was taken is not in it; a rollback keeps that in a safety snapshot first."
    notes = [_code_note(before), kept]
    effective = [rollback for rollback in rollbacks if rollback.took_effect]
    if not effective:
        names = ", ".join(text(asset.key, 128) for asset in snapshot.assets)
        return RollbackOptions("good", f"Restores {names}, whole or not at all.", commands, notes)
    safety = effective[-1].safety_snapshot_id
    if safety and pipeline.catalogue.store.folder.joinpath(safety, "metadata.json").is_file():
        commands.insert(0, ("Undo the rollback", f"inv release.rollback --snapshot {safety}"))
    return RollbackOptions("warn", "This release was rolled back already.", commands, notes)


def _code_note(before: Manifest | None) -> str:
    if before is None:
        return f"{_CODE} Put the code that belongs to it back yourself."
    version = text(before.app_version, 100) or "unknown version"
    commit = f"commit {(before.git_commit or '')[:12]}" if before.git_commit else ""
    known = ", ".join(part for part in (version, commit) if part and part != before.release_id)
    return f"{_CODE} Put that of {before.release_id}{f' ({known})' if known else ''} back first."
