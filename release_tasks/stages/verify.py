"""Verify all snapshots, attestations and the audit log; changes nothing."""

from __future__ import annotations

from attrs import frozen

from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import SnapshotVerdict, verify_all
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
    """Verify the digests, databases and attestations of every snapshot, or of the snapshot ``snapshot_id``.

    Raises UsageError for a snapshot that does not exist and for a public key that cannot be read.
    """
    pipeline = Pipeline(settings.release.root)
    # Attestations first: a missing key is reported immediately.
    attestations = verify_attestations(settings, pipeline, snapshot_id)
    snapshots = verify_all(pipeline.catalogue, snapshot_id, emit, assets=settings.release.assets)
    return Verification(snapshots=snapshots, attestations=attestations)


def verify_audit(settings: Settings) -> AuditVerdict:
    """Verify the chain of the audit log against every anchor; ``intact`` is the verdict."""
    pipeline = Pipeline(settings.release.root)
    return pipeline.audit.verify(pipeline.anchors())
