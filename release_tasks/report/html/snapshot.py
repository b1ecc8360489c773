"""The snapshot of a release, verified again, its last restore test, and the rollback options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.archive.verify import verify_snapshot
from release_tasks.core.errors import StageError, StageFailed, UsageError, describe_error
from release_tasks.core.records import AssetRecord, Manifest, SnapshotMetadata, SnapshotReference
from release_tasks.core.typed import typed
from release_tasks.report.html.history import Rollback
from release_tasks.report.values import text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["RollbackOptions", "Snapshot", "reference_of", "rollback_options_of", "snapshot_of"]

_MOST_ASSETS = 100
_VERIFIED = {
    "verified": "Every byte was digested again for this page and matches the record.",
    "damaged": "It was digested again for this page and does not match the record. A rollback to it is refused.",
    "unverifiable": "An older tool took it without digests, so it cannot be verified.",
}


@frozen(kw_only=True)
class Snapshot:
    """The current state of the snapshot that a manifest names.

    ``metadata`` is None when the snapshot cannot be read or was deleted. ``damaged`` describes the damage of each
    damaged asset. ``test`` and ``tested_at`` are the result and the time of the last drill.
    """

    snapshot_id: str
    folder: str
    digest: str
    exists: bool = True
    tone: Meaning
    finding: str
    metadata: SnapshotMetadata | None = None
    is_verified: bool = False
    is_restorable: bool = False
    needs_force: bool = False
    findings: list[str] = field(factory=list)
    damaged: dict[str, str] = field(factory=dict)
    test_tone: Meaning = "quiet"
    test: str = ""
    tested_at: str | None = None

    @property
    def assets(self) -> list[AssetRecord]:
        """The assets on the page."""
        return self.metadata.assets[:_MOST_ASSETS] if self.metadata is not None else []

    @property
    def size(self) -> int:
        """The size of all assets, in bytes."""
        return sum(asset.size for asset in self.metadata.assets) if self.metadata is not None else 0

    def entry_count(self, record: AssetRecord) -> int | None:
        """Return the number of names in a folder; None for another asset, and where the list of names is damaged."""
        with contextlib.suppress(StageFailed, OSError):
            if record.entries is not None and record.key not in self.damaged:
                return len(record.entries)
        return None

    def found(self, record: AssetRecord) -> tuple[Meaning, str]:
        """Return the current state of an asset and its meaning."""
        if record.key in self.damaged:
            return "bad", text(self.damaged[record.key], 300)
        if record.damaged:
            return "warn", "remains of a damaged asset"
        if not record.exists:
            return "quiet", "absent; a restore removes it"
        if record.plugin_problem is not None:
            return "warn", f"stored as a plain copy: {text(record.plugin_problem, 300)}"
        return ("good", "matches the record") if self.is_verified else ("quiet", "not verified")


def reference_of(pipeline: Pipeline, file: ManifestFile) -> SnapshotReference | None:
    """Return the snapshot of a release; from the catalogue where the manifest cannot be read."""
    if file.manifest is not None:
        return file.manifest.snapshot
    try:
        published, _ = pipeline.catalogue.published()
    except OSError:
        return None
    for found in reversed(published):
        if found.kind == "release" and found.release_id == file.release_id:
            return SnapshotReference(snapshot_id=found.snapshot_id, metadata_path=found.metadata_path)
    return None


def snapshot_of(provenance: Provenance, pipeline: Pipeline, reference: SnapshotReference | None) -> Snapshot | None:
    """Return the referenced snapshot, verified byte by byte and against its records; None without a reference."""
    if reference is None:
        return None
    unread = Snapshot(
        snapshot_id=reference.snapshot_id,
        folder=str(pipeline.catalogue.path(reference.snapshot_id)),
        digest=text(reference.digest, 64),
        tone="bad",
        finding="",
    )
    try:
        metadata = pipeline.catalogue.get(reference.snapshot_id)
        verdict = verify_snapshot(pipeline.catalogue, metadata)
    except UsageError:
        deleted = "It does not exist any more: retention or a person deleted it."
        return evolve(unread, exists=False, tone="warn", finding=deleted)
    except (StageFailed, OSError) as error:
        return evolve(unread, finding=text(describe_error(error)))
    tone, finding = meaning_of(verdict.status), _VERIFIED[verdict.status]
    is_altered = bool(reference.digest) and reference.digest != metadata.digest
    if is_altered:
        tone, finding = "bad", "It is not the snapshot of the manifest: their digests differ."
    refusal = "" if legacy.is_legacy(metadata) and not provenance.is_signed else provenance.refusal(metadata)
    if refusal and not is_altered:
        tone, finding = "bad", f"Its records do not agree with it: {text(refusal, 500)}."
    test_tone, test, tested_at = _restore_test(pipeline, metadata)
    return evolve(
        unread,
        digest=text(metadata.digest, 64),
        tone=tone,
        finding=finding,
        metadata=metadata,
        is_verified=verdict.status == "verified",
        is_restorable=verdict.status != "damaged" and not is_altered and not refusal,
        needs_force=legacy.is_legacy(metadata),
        findings=[text(finding, 500) for finding in verdict.findings[:20]],
        damaged={finding.key: finding.what for finding in verdict.findings},
        test_tone=test_tone,
        test=test,
        tested_at=tested_at,
    )


def _restore_test(pipeline: Pipeline, metadata: SnapshotMetadata) -> tuple[Meaning, str, str | None]:
    try:
        tests = read_restore_tests(pipeline)
    except (StageError, OSError) as error:
        return "bad", text(describe_error(error)), None
    if tests.problem:
        return "bad", text(tests.problem), None
    last = tests.by_snapshot.get(metadata.snapshot_id)
    if last is None:
        return "warn", "This snapshot has never been test-restored.", None
    at = text(last.at, 40)
    if last.status != "passed":
        return "bad", f"Its last drill failed: {text(last.detail, 500)}", at
    result = "a service started on it was healthy" if last.booted else "every asset matches the record"
    return "good", f"A drill restored it into a scratch folder, and {result}.", at


@frozen
class RollbackOptions:
    """The ways to restore the state before the release. ``commands`` are pairs of a purpose and a command."""

    tone: Meaning
    message: str
    commands: list[tuple[str, str]]
    notes: list[str] = field(factory=list)


def rollback_options_of(
    provenance: Provenance,
    pipeline: Pipeline,
    manifest: Manifest | None,
    before: Manifest | None,
    snapshot: Snapshot | None,
    rollbacks: Sequence[Rollback],
) -> RollbackOptions:
    """Return the rollback options; ``before`` is the release whose code belongs to the restored state."""
    others = [("See the other snapshots", typed("release.status"))]
    if snapshot is None and manifest is None:
        message = "The snapshot of this release is unknown, because its manifest cannot be read."
        return RollbackOptions("warn", message, others)
    if snapshot is None:
        assert manifest is not None
        message = "Nothing was captured and nothing live was changed, so there is nothing to restore."
        again = ("Fix it, then prepare again", typed("release.prepare", "--release-id", manifest.release_id))
        return RollbackOptions("quiet", message, [again])
    if not snapshot.exists:
        return RollbackOptions("warn", f"Its snapshot {snapshot.snapshot_id} was deleted.", others)
    if not snapshot.is_restorable:
        verify = ("See the damage", typed("release.verify", "--snapshot", snapshot.snapshot_id))
        message = "A rollback to its snapshot is refused before anything is changed."
        return RollbackOptions("bad", message, [verify, *others])
    command = typed("release.rollback", "--snapshot", snapshot.snapshot_id)
    commands = [
        ("Restore the state before this release", command + (" --force" if snapshot.needs_force else "")),
        ("See the changes first", f"{command} --plan"),
        (
            "Rehearse the rollback in a scratch copy",
            typed("release.drill", "--snapshot", snapshot.snapshot_id),
        ),
    ]
    newer = "The snapshot does not contain later writes; a rollback first stores them in a safety snapshot."
    code = "Deploy the code that belongs to it yourself."
    if before is not None:
        commit = f"commit {before.git_commit[:12]}" if before.git_commit else ""
        known = (text(before.app_version, 100) or "unknown version", commit)
        details = ", ".join(part for part in known if part and part != before.release_id)
        code = f"Deploy the code of {before.release_id}{f' ({details})' if details else ''} first."
    notes = [f"A rollback restores state, not code. {code}", newer]
    effective = [rollback for rollback in rollbacks if rollback.took_effect]
    if not effective:
        names = ", ".join(text(asset.key, 128) for asset in snapshot.assets)
        return RollbackOptions("good", f"Restores {names}, all or nothing.", commands, notes)
    safety = effective[-1].safety_snapshot_id
    if safety and _is_offered(provenance, pipeline, safety):
        commands.insert(0, ("Undo the rollback", typed("release.rollback", "--snapshot", safety)))
    return RollbackOptions("warn", "This release was rolled back already.", commands, notes)


def _is_offered(provenance: Provenance, pipeline: Pipeline, snapshot_id: str) -> bool:
    """Return whether a snapshot exists under its own id, and agrees with its records."""
    if not pipeline.catalogue.store.folder.joinpath(snapshot_id, "metadata.json").is_file():
        return False
    try:
        return not provenance.refusal(pipeline.catalogue.get(snapshot_id))
    except StageError:
        return False
