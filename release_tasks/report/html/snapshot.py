"""The snapshot of a release, digested again asset by asset, what a drill has proved of it, and how to go back to it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, field, frozen

from release_tasks.archive import legacy
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.archive.verify import verify_snapshot
from release_tasks.core.errors import StageError, StageFailed, UsageError, describe_error
from release_tasks.core.records import AssetRecord, Manifest, SnapshotMetadata, SnapshotReference
from release_tasks.report.html.history import Rollback
from release_tasks.report.values import text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["RollbackOptions", "Snapshot", "reference_of", "rollback_options_of", "snapshot_of"]

_MOST_ASSETS = 100
_OTHERS = [("See what else there is to go back to", "inv release.status")]
_VERIFIED = {
    "verified": "Every byte was digested again for this page, and is as it was recorded.",
    "damaged": "Digested again for this page, and not as it was recorded. A rollback to it is refused.",
    "unverifiable": "Taken by an older tool, without digests: there is nothing to verify it by.",
}


@frozen(kw_only=True)
class Snapshot:
    """The snapshot that a manifest names, as it is found now; ``metadata`` is None when it cannot be read or is gone.

    ``damaged`` says of each asset that is not as recorded what is wrong; ``proof`` and ``proof_at`` are those of its
    last drill.
    """

    snapshot_id: str
    folder: str
    digest: str
    is_there: bool = True
    tone: Meaning
    finding: str
    metadata: SnapshotMetadata | None = None
    is_verified: bool = False
    is_restorable: bool = False
    needs_force: bool = False
    findings: list[str] = field(factory=list)
    damaged: dict[str, str] = field(factory=dict)
    proof_tone: Meaning = "quiet"
    proof: str = ""
    proof_at: str | None = None

    @property
    def assets(self) -> list[AssetRecord]:
        """The assets that the page shows."""
        return self.metadata.assets[:_MOST_ASSETS] if self.metadata is not None else []

    @property
    def size(self) -> int:
        """Bytes over all assets."""
        return sum(asset.size for asset in self.metadata.assets) if self.metadata is not None else 0

    def found(self, record: AssetRecord) -> tuple[Meaning, str]:
        """Return what is found of an asset now, and what that means."""
        if record.key in self.damaged:
            return "bad", text(self.damaged[record.key], 300)
        if record.damaged:
            return "warn", "remains of a damaged asset"
        if not record.exists:
            return "quiet", "absent, and absent after a restore"
        if record.plugin_problem is not None:
            return "warn", f"a plain copy: {text(record.plugin_problem, 300)}"
        return ("good", "as recorded") if self.is_verified else ("quiet", "not verified")


def reference_of(pipeline: Pipeline, file: ManifestFile) -> SnapshotReference | None:
    """Return which snapshot belongs to a release; of one whose manifest cannot be read, what the catalogue says."""
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


def snapshot_of(pipeline: Pipeline, named: SnapshotReference | None) -> Snapshot | None:
    """Return the snapshot that ``named`` names, verified byte by byte; None when there is none."""
    if named is None:
        return None
    unread = Snapshot(
        snapshot_id=named.snapshot_id,
        folder=str(pipeline.catalogue.path(named.snapshot_id)),
        digest=text(named.digest, 64),
        tone="bad",
        finding="",
    )
    try:
        metadata = pipeline.catalogue.get(named.snapshot_id)
        verdict = verify_snapshot(pipeline.catalogue, metadata)
    except UsageError:
        gone = "It is not there any more: retention removed it, or somebody did."
        return evolve(unread, is_there=False, tone="warn", finding=gone)
    except (StageFailed, OSError) as error:
        return evolve(unread, finding=text(describe_error(error)))
    tone, finding = meaning_of(verdict.status), _VERIFIED[verdict.status]
    is_altered = bool(named.digest) and named.digest != metadata.digest
    if is_altered:
        tone, finding = "bad", "It is not the snapshot that the manifest names: their digests differ."
    proof_tone, proof, proof_at = _proof(pipeline, metadata)
    return evolve(
        unread,
        digest=text(metadata.digest, 64),
        tone=tone,
        finding=finding,
        metadata=metadata,
        is_verified=verdict.status == "verified",
        is_restorable=verdict.status != "damaged" and not is_altered,
        needs_force=legacy.is_legacy(metadata),
        findings=[text(finding, 500) for finding in verdict.findings[:20]],
        damaged={finding.key: finding.what for finding in verdict.findings},
        proof_tone=proof_tone,
        proof=proof,
        proof_at=proof_at,
    )


def _proof(pipeline: Pipeline, metadata: SnapshotMetadata) -> tuple[Meaning, str, str | None]:
    try:
        proved = read_restore_tests(pipeline)
    except (StageError, OSError) as error:
        return "bad", text(describe_error(error)), None
    if proved.problem:
        return "bad", text(proved.problem), None
    proof = proved.by_snapshot.get(metadata.snapshot_id)
    if proof is None:
        return "warn", "Nobody has seen it come back yet.", None
    at = text(proof.at, 40)
    if proof.status != "passed":
        return "bad", f"Its last drill failed: {text(proof.detail, 500)}", at
    and_so = "a service got healthy on it" if proof.booted else "every asset came back as recorded"
    return "good", f"A drill restored it into a scratch folder, and {and_so}.", at


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
    code = "Put the code that belongs to it back yourself."
    if before is not None:
        commit = f"commit {before.git_commit[:12]}" if before.git_commit else ""
        known = (text(before.app_version, 100) or "unknown version", commit)
        details = ", ".join(part for part in known if part and part != before.release_id)
        code = f"Put that of {before.release_id}{f' ({details})' if details else ''} back first."
    notes = [f"A rollback restores state, not code. {code}", kept]
    effective = [rollback for rollback in rollbacks if rollback.took_effect]
    if not effective:
        names = ", ".join(text(asset.key, 128) for asset in snapshot.assets)
        return RollbackOptions("good", f"Restores {names}, whole or not at all.", commands, notes)
    safety = effective[-1].safety_snapshot_id
    if safety and pipeline.catalogue.store.folder.joinpath(safety, "metadata.json").is_file():
        commands.insert(0, ("Undo the rollback", f"inv release.rollback --snapshot {safety}"))
    return RollbackOptions("warn", "This release was rolled back already.", commands, notes)
