"""Verify that every byte of a snapshot is unchanged since its capture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.attestation.captured import SNAPSHOT_STATEMENT
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.parents import invalid_parent
from release_tasks.archive.seal import snapshot_digest
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.findings import AssetFinding
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import base_path, stored_path
from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.digests import FileDigests
from release_tasks.core.entries import ENTRIES, StoredEntries
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Emit, Meter, StepBegan, ignore, shielded
from release_tasks.core.ids import is_valid_id
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.typed import typed

__all__ = ["SnapshotVerdict", "require_intact", "unexpected_files", "verify_all", "verify_snapshot"]

_MAX_SHOWN = 5
_MAX_NAMES = 20
_MAX_KEYS = 50  # a forged document can name a hundred thousand assets


@frozen(kw_only=True)
class SnapshotVerdict:
    """The result for one snapshot. A legacy snapshot has no digests and is always ``unverifiable``."""

    snapshot_id: str
    status: str  # verified | damaged | unverifiable
    findings: list[AssetFinding] = field(factory=list)
    notes: list[str] = field(factory=list)  # checks that could not run; not damage


def verify_snapshot(
    catalogue: Catalogue, metadata: SnapshotMetadata, *, emit: Emit = ignore, digests: FileDigests | None = None
) -> SnapshotVerdict:
    """Compare the digest of every asset with its record.

    ``digests`` are those of files that were read before: a base of several snapshots is read once.
    """
    digests = digests or FileDigests()
    folder = catalogue.path(metadata.snapshot_id)
    if legacy.is_legacy(metadata):
        findings = [f for asset in metadata.assets if asset.exists for f in _verify_legacy(folder, asset)]
        return SnapshotVerdict(snapshot_id=metadata.snapshot_id, status="unverifiable", findings=findings)
    findings = []
    keys = [asset.key for asset in metadata.assets]
    if len(set(keys)) != len(keys) or snapshot_digest(metadata.assets) != metadata.digest:
        findings.append(
            AssetFinding(
                key="*",
                what="the records of the assets were altered",
                expected=metadata.digest,
                found=snapshot_digest(metadata.assets),
            )
        )
    if (path := invalid_parent(metadata)) is not None:
        what = f"the record of the folder {excerpt_line(path)} was altered: it has an invalid mode or owner"
        findings.append(AssetFinding(key="*", what=what))
    for asset in metadata.assets:
        emit(BytesMoved("verify", asset.key, 0, max(asset.size, 0)))
    for asset in metadata.assets:
        findings += _with_dependents(catalogue, metadata, asset, _verify_asset(folder, asset, emit, digests))
    for path in unexpected_files(folder, metadata.assets):
        if path == "metadata.json" or (path == SNAPSHOT_STATEMENT and not (folder / path).is_symlink()):
            continue
        key = path.split("/")[1] if path.count("/") > 1 else "*"
        findings.append(AssetFinding(key=key, what=f"{path} was added", expected="nothing", found=path))
    status = "damaged" if findings else "verified"
    return SnapshotVerdict(snapshot_id=metadata.snapshot_id, status=status, findings=findings)


def verify_all(
    catalogue: Catalogue,
    snapshot_id: str | None = None,
    emit: Emit = ignore,
    *,
    assets: Mapping[str, AssetConfig] | None = None,
) -> list[SnapshotVerdict]:
    """Verify one snapshot or all snapshots, oldest first. A folder that cannot be read counts as damaged.

    SQLite checks the databases. A plugin checks the copies that it captured, with its options in ``assets``. Raises
    UsageError when there is no snapshot ``snapshot_id``.
    """
    emit = shielded(emit)
    snapshots, unreadable = catalogue.published()
    problems = [] if snapshot_id is not None else _alias_problems(catalogue)
    notes: list[str] = []
    if snapshot_id is not None:
        requested, snapshot_id = snapshot_id, catalogue.resolve(snapshot_id)
        unreadable = [folder for folder in unreadable if folder.snapshot_id == snapshot_id]
        snapshots = [] if unreadable else [catalogue.get(requested)]
        notes = [note for snapshot in snapshots for note in catalogue.note_on(requested, snapshot)]
    verdicts = problems + [
        SnapshotVerdict(
            snapshot_id=folder.snapshot_id,
            status="damaged",
            findings=[AssetFinding(key="metadata.json", what=folder.reason)],
        )
        for folder in unreadable
    ]
    digests = FileDigests()
    for snapshot in snapshots:
        emit(StepBegan("verify", snapshot.snapshot_id))
        verdict = verify_snapshot(catalogue, snapshot, emit=emit, digests=digests)
        verdict = _with_content(catalogue, snapshot, verdict, assets or {})
        verdicts.append(evolve(verdict, notes=notes + verdict.notes))
    return verdicts


def _alias_problems(catalogue: Catalogue) -> list[SnapshotVerdict]:
    """Return the verdict on the ids of removed snapshots when they cannot be read."""
    try:
        catalogue.aliases.read()
    except InvalidDocument as error:
        name = catalogue.aliases.path.name
        finding = AssetFinding(key=name, what=f"{error}. Retention keeps equal snapshots until you move this file away")
        return [SnapshotVerdict(snapshot_id=name, status="damaged", findings=[finding])]
    return []


def _with_content(
    catalogue: Catalogue, metadata: SnapshotMetadata, verdict: SnapshotVerdict, assets: Mapping[str, AssetConfig]
) -> SnapshotVerdict:
    """Check the content of the copies whose bytes are as recorded; through plugins only in an intact snapshot."""
    if verdict.status == "unverifiable":
        return verdict
    altered = {finding.key for finding in verdict.findings}
    findings = list(verdict.findings)
    notes: list[str] = []
    folder = catalogue.path(metadata.snapshot_id)
    for asset in metadata.assets:
        notes += kind_of(asset).capture_notes(asset)
        if not asset.exists or asset.key in altered or (altered and asset.plugin is not None):
            continue
        result = kind_of(asset).examine(asset, assets.get(asset.key), stored_path(folder, asset))
        if result is None:
            continue
        findings += [AssetFinding(key=asset.key, what=problem) for problem in result.problems]
        if result.unchecked is not None and not result.problems:
            problem = "its plugin could not check it" if asset.plugin is not None else "not all of it was checked"
            notes.append(f"{asset.key}: every byte is as recorded, but {problem}: {result.unchecked}.")
        if asset.plugin is not None:
            findings += _verify_asset(folder, asset)  # its check must not change the copy
    status = "damaged" if findings else "verified"
    return evolve(verdict, status=status, findings=findings, notes=notes)


def require_intact(catalogue: Catalogue, metadata: SnapshotMetadata, emit: Emit = ignore) -> None:
    """Raise StageFailed unless the snapshot is as recorded.

    The message names the asset, both digests and the other snapshots that have an intact copy.
    """
    verdict = verify_snapshot(catalogue, metadata, emit=emit)
    if verdict.status == "verified":
        return
    if not verdict.findings:
        raise StageFailed(f"Snapshot {metadata.snapshot_id} is refused: it has no digests to verify.")
    messages = [f"Snapshot {metadata.snapshot_id} is refused, nothing was changed: {verdict.findings[0]}."]
    messages += [f"Also {finding}." for finding in verdict.findings[1:_MAX_SHOWN]]
    keys = list(dict.fromkeys(finding.key for finding in verdict.findings))
    others = [] if len(keys) > _MAX_KEYS else catalogue.published()[0]
    for key in keys:
        intact = _other_intact_copies(catalogue, metadata, others, key)
        if intact:
            messages.append(f"An intact copy of {key} is in: {', '.join(intact)}.")
    messages.append(f"To list the intact snapshots: {typed('release.verify')}")
    raise StageFailed(" ".join(messages))


def _with_dependents(
    catalogue: Catalogue, metadata: SnapshotMetadata, asset: AssetRecord, findings: list[AssetFinding]
) -> list[AssetFinding]:
    """Add the names of the other snapshots to the finding about a file that is their base, too."""
    base = asset.sha256 if asset.delta is None else asset.delta.base_sha256
    if base is None or all(finding.expected != base for finding in findings):
        return findings
    names = [
        snapshot.snapshot_id
        for snapshot in catalogue.published()[0]
        if snapshot.snapshot_id != metadata.snapshot_id
        and any(other.delta is not None and other.delta.base_sha256 == base for other in snapshot.assets)
    ]
    if asset.delta is None and not (names and _is_base(catalogue, metadata, asset, base)):
        return findings
    shown = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
    needed = f"; other snapshots that need it: {shown or 'none'}"
    return [evolve(f, what=f.what + needed) if f.expected == base else f for f in findings]


def _is_base(catalogue: Catalogue, metadata: SnapshotMetadata, asset: AssetRecord, sha256: str) -> bool:
    """Return whether the plain copy of an asset is the file of a base."""
    try:
        stored = stored_path(catalogue.path(metadata.snapshot_id), asset)
        return os.path.samestat(os.lstat(stored), os.lstat(base_path(stored, sha256)))
    except (StageFailed, OSError):
        return False


def _verify_asset(
    folder: Path, asset: AssetRecord, emit: Emit = ignore, digests: FileDigests | None = None
) -> list[AssetFinding]:
    try:
        stored = stored_path(folder, asset)
        if not asset.exists:
            if asset.delta is not None or asset.pending:
                return [AssetFinding(key=asset.key, what="its record was altered: it is absent and has a delta")]
            what = "is recorded as absent, but the snapshot has a copy of it"
            return [AssetFinding(key=asset.key, what=what)] if os.path.lexists(stored) else []
        return kind_of(asset).verify(asset, stored, Meter(emit, "verify", asset.key, asset.size), digests)
    except StageFailed as error:
        return [AssetFinding(key=asset.key, what=error.message.rstrip("."), expected=asset.sha256, found="unreadable")]
    except FileNotFoundError:
        return [AssetFinding(key=asset.key, what="is missing", expected=asset.sha256)]
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        return [AssetFinding(key=asset.key, what=what, expected=asset.sha256, found="unreadable")]


def _verify_legacy(folder: Path, asset: AssetRecord) -> list[AssetFinding]:
    stored = folder / asset.relative_path
    if not os.path.lexists(stored):
        return [AssetFinding(key=asset.key, what="is missing")]
    return kind_of(asset).check_legacy(asset, stored)


def unexpected_files(folder: Path, assets: Iterable[AssetRecord]) -> list[str]:
    """Return the paths in the folder of a snapshot that belong to no record, relative to the folder."""
    expected = {"assets"}
    listed = [folder, folder / "assets"]
    for asset in assets:
        if asset.exists and is_valid_id(asset.key):  # an invalid key could point outside the snapshot
            expected |= {f"assets/{asset.key}", asset.relative_path}
            listed.append(folder / "assets" / asset.key)
            if isinstance(asset.entries, StoredEntries):
                expected |= {ENTRIES, asset.entries.name}
                listed.append(folder / ENTRIES)
    # A link or a file in place of a folder is reported as an asset that cannot be read.
    folders = [path for path in dict.fromkeys(listed) if path.is_dir() and not path.is_symlink()]
    found = [os.path.relpath(path / name, folder) for path in folders for name in sorted(os.listdir(path))]
    return [path for path in found if path not in expected]


def _other_intact_copies(
    catalogue: Catalogue, metadata: SnapshotMetadata, others: list[SnapshotMetadata], key: str
) -> list[str]:
    """Return the other snapshots that have an intact copy of the same content of the damaged asset ``key``."""
    damaged = metadata.asset(key)
    expected = (damaged.content_digest or damaged.sha256) if damaged else None
    intact: list[str] = []
    for other in others:
        asset = other.asset(key)
        if expected is None or asset is None or other.snapshot_id == metadata.snapshot_id or legacy.is_legacy(other):
            continue
        is_same = (asset.content_digest or asset.sha256) == expected
        if is_same and not _verify_asset(catalogue.path(other.snapshot_id), asset):
            intact.append(other.snapshot_id)
    return intact
