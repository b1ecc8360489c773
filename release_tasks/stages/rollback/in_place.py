"""Compare the live state with the snapshot that was restored last, and describe the difference to the operator.

One function decides whether a snapshot is in place, for the rollback, its plan, the diagnosis and the drill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

from attrs import field, frozen

from release_tasks.archive.looking import look_folder
from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.findings import Drift
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.core.units import show_count

__all__ = ["LastRestore", "describe_changes", "find_changes", "find_last_restore", "removed_rows"]

_MAX_TABLES = 5


@frozen(kw_only=True)
class LastRestore:
    """The snapshot that was restored last, and how each asset differs from it now.

    ``drifts`` ends with the first asset that is not in place. ``is_before_first``: the snapshot is the state before the
    first deployment.
    """

    target: SnapshotMetadata
    drifts: dict[str, Drift] = field(factory=dict)
    is_before_first: bool = False

    @property
    def is_in_place(self) -> bool:
        """Whether the snapshot is still live: only data that the service wrote since differs."""
        return all(drift.is_in_place for drift in self.drifts.values())

    @property
    def differences(self) -> list[str]:
        """The differences because of which the snapshot is not in place, one line for each asset."""
        return [
            f"{key}: {'; '.join(drift.form + drift.schema)}."
            for key, drift in self.drifts.items()
            if not drift.is_in_place
        ]

    @property
    def losses(self) -> list[str]:
        """The databases with fewer rows than the snapshot, one line for each."""
        return [
            f"{key}: missing since the restore: {counts}."
            for key, drift in self.drifts.items()
            if (counts := _listed(_missing_rows(drift)))
        ]

    @property
    def notes(self) -> list[str]:
        """What the service wrote since the restore, one line for each asset, and the command that removes it."""
        notes = list(self.losses)
        for key, drift in self.drifts.items():
            if added := _listed(_added_rows(drift)):
                notes.append(f"{key}: added since the restore: {added}.")
            elif drift.has_other_data:
                notes.append(f"{key}: its content was changed since the restore.")
            if uncounted := _uncounted(drift):
                notes.append(f"{key}: the rows of {uncounted} cannot be counted without the service.")
            notes += [f"{key}: {note}." for note in drift.notes]
        if notes:
            again = typed("release.rollback", "--snapshot", self.target.snapshot_id, "--force")
            notes.append(f"This data was not changed. To restore the snapshot exactly: {again}")
        return notes


def find_last_restore(
    settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, emit: Emit = ignore
) -> LastRestore | None:
    """Compare the live state with ``target`` if it was restored last and no release was prepared since; else None.

    Files and folders must equal the snapshot. A database must have its schema, and may have other rows. Changes
    nothing. Raises StageFailed, OSError.
    """
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id != target.snapshot_id or pipeline.was_prepared_since(state.lineage):
        return None
    if target.snapshot_id != Provenance(settings, pipeline).recorded.live:
        return None  # another rollback took effect since, or none did: the state file is an old or a forged one
    assets = sorted(settings.release.assets.items(), key=lambda item: item[1].kind.state_check_cost)
    last = LastRestore(target=target, is_before_first=pipeline.is_before_first(target))
    for folder, difference in Parents(settings.project, settings.release.assets).differences(target).items():
        last.drifts[folder] = Drift(form=[difference])
    _compare(last, pipeline, [item for item in assets if not item[1].kind.state_check_cost], None, emit)
    # Usually a file differs, and then the databases need not be read.
    costly = [item for item in assets if item[1].kind.state_check_cost and target.asset(item[0])]
    if last.is_in_place and costly:
        with look_folder(settings, [asset for _, asset in costly]) as scratch:
            _compare(last, pipeline, costly, scratch, emit)
    return last


def _compare(
    last: LastRestore, pipeline: Pipeline, assets: list[tuple[str, AssetConfig]], scratch: Path | None, emit: Emit
) -> None:
    """Add the drifts of ``assets`` to ``last``, up to the first that is not in place."""
    folder = pipeline.catalogue.path(last.target.snapshot_id)
    for key, asset in assets:
        record = last.target.asset(key)
        if record is not None and last.is_in_place:
            copies = None if scratch is None else scratch / key
            last.drifts[key] = asset.kind.find_drift(asset, record, stored_path(folder, record), copies, emit)


def find_changes(
    pipeline: Pipeline, target: SnapshotMetadata, folder: Path, live: Iterable[AssetRecord], keys: Container[str]
) -> dict[str, Drift]:
    """Compare the captures ``live`` of the state before a rollback, below ``folder``, with ``target``.

    Only for the assets of ``keys``; copies that cannot be compared are left out.
    """
    drifts: dict[str, Drift] = {}
    for before in live:
        record = target.asset(before.key)
        is_comparable = record is not None and record.exists and before.exists and not before.damaged
        if record is None or before.key not in keys or not is_comparable:
            continue
        with contextlib.suppress(StageFailed, OSError):
            stored = stored_path(pipeline.catalogue.path(target.snapshot_id), record)
            copy = stored_path(folder, before)
            drifts[before.key] = kind_of(record).compare_copies(record, stored, before, copy)
    return drifts


def describe_changes(drifts: Mapping[str, Drift], safety_id: str | None = None) -> list[str]:
    """Describe the data that a rollback removed and brought back; without ``safety_id``, what it would do."""
    removed, restored = ("removed", "brought back") if safety_id else ("would remove", "would bring back")
    lines: list[str] = []
    for key, drift in drifts.items():
        if drift.schema:
            lines.append(f"{key}: its schema was another than that of the snapshot: {'; '.join(drift.schema)}.")
        if counts := _listed(_added_rows(drift)):
            stored = f" The state before it is in {safety_id}." if safety_id else ""
            lines.append(f"{key}: the rollback {removed} {counts}, which the snapshot does not contain.{stored}")
        if counts := _listed(_missing_rows(drift)):
            lines.append(f"{key}: the rollback {restored} {counts}.")
    return lines


def removed_rows(drifts: Mapping[str, Drift]) -> dict[str, dict[str, int]]:
    """Return the least number of rows that a rollback removed, by asset and table."""
    counts = {key: _added_rows(drift) for key, drift in drifts.items()}
    return {key: tables for key, tables in counts.items() if tables}


def _added_rows(drift: Drift) -> dict[str, int]:
    return _positive(drift, lambda captured, live: live - captured)


def _missing_rows(drift: Drift) -> dict[str, int]:
    return _positive(drift, lambda captured, live: captured - live)


def _positive(drift: Drift, difference: Callable[[int, int], int]) -> dict[str, int]:
    return {
        table: difference(each.captured, each.live)
        for table, each in drift.rows.items()
        if each.captured is not None and each.live is not None and difference(each.captured, each.live) > 0
    }


def _uncounted(drift: Drift) -> str:
    names = [excerpt_line(table, 60) for table, each in drift.rows.items() if None in (each.captured, each.live)]
    return ", ".join([*names[:_MAX_TABLES], *(["..."] if len(names) > _MAX_TABLES else [])])


def _listed(tables: Mapping[str, int]) -> str:
    """Return the numbers of rows as ``at least 40 rows of ledger and 3 of accounts``; empty for no table.

    At least, because only numbers are compared: rows that were removed and others that were added cancel out.
    """
    ordered = sorted(tables.items(), key=lambda item: -item[1])
    parts = [f"{count:,} of {excerpt_line(table, 60)}" for table, count in ordered[:_MAX_TABLES]]
    if not parts:
        return ""
    table, count = ordered[0]
    parts[0] = f"at least {show_count(count, 'row')} of {excerpt_line(table, 60)}"
    if len(ordered) > _MAX_TABLES:
        parts.append(show_count(len(ordered) - _MAX_TABLES, "other table"))
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
