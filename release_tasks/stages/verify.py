"""Verify all snapshots, attestations and the audit log; changes nothing."""

from __future__ import annotations

from attrs import frozen

from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.legacy import is_legacy
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance, with_records
from release_tasks.archive.verify import SnapshotVerdict, verify_all
from release_tasks.assets.findings import AssetFinding
from release_tasks.config.schema import Settings
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.events import Emit, ignore

__all__ = ["Verification", "verify_audit", "verify_snapshots"]


@frozen(kw_only=True)
class Verification:
    """The results for the snapshots, and for the attestations of the releases."""

    snapshots: list[SnapshotVerdict]
    attestations: list[AttestationVerdict]

    @property
    def is_good(self) -> bool:
        """Whether nothing is damaged."""
        statuses = {each.status for each in self.snapshots} | {each.status for each in self.attestations}
        return "damaged" not in statuses


def verify_snapshots(settings: Settings, snapshot_id: str | None = None, *, emit: Emit = ignore) -> Verification:
    """Verify the digests, databases, records and attestations of every snapshot, or of the snapshot ``snapshot_id``.

    Raises UsageError for a snapshot that does not exist and for a public key that cannot be read.
    """
    pipeline = Pipeline(settings.release.root)
    # Attestations first: a missing key is reported immediately.
    attestations = verify_attestations(settings, pipeline, snapshot_id)
    snapshots = verify_all(pipeline.catalogue, snapshot_id, emit, assets=settings.release.assets)
    provenance = Provenance(settings, pipeline)
    published = {snapshot.snapshot_id: snapshot for snapshot in pipeline.catalogue.published()[0]}
    verdicts = []
    for verdict in snapshots:
        found = published.get(verdict.snapshot_id)
        records = [] if found is None else provenance.compare_with_log(found, snapshot_id)
        if found is not None and (found.kind != "release" or is_legacy(found)):
            records += provenance.compare_with_signature(found)  # a release has a verdict on its statement
        verdicts.append(with_records(verdict, records))
    if snapshot_id is None:
        verdicts += [
            SnapshotVerdict(snapshot_id=name, status="damaged", findings=[AssetFinding(key="*", what=finding.what)])
            for name, finding in provenance.missing_snapshots()
        ]
        hidden, problem = provenance.hidden_latest()
        if hidden and hidden not in {verdict.snapshot_id for verdict in verdicts if verdict.status == "damaged"}:
            finding = AssetFinding(key="*", what=problem.rstrip("."))
            verdicts.append(SnapshotVerdict(snapshot_id=hidden, status="damaged", findings=[finding]))
        attestations += provenance.missing_releases()
    return Verification(snapshots=verdicts, attestations=attestations)


def verify_audit(settings: Settings) -> AuditVerdict:
    """Verify the chain of the audit log against every anchor; ``intact`` is the verdict."""
    pipeline = Pipeline(settings.release.root)
    return pipeline.audit.verify(pipeline.anchors())
