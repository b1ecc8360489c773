"""Every byte of the archive and every link of the audit log, read again; nothing is changed."""

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
    """What a reading of every byte found: of the snapshots, and of what is attested of the releases."""

    snapshots: list[SnapshotVerdict]
    attestations: list[AttestationVerdict]

    @property
    def is_good(self) -> bool:
        """Whether every byte is as recorded."""
        found = {each.status for each in self.snapshots} | {each.status for each in self.attestations}
        return "damaged" not in found


def verify_snapshots(settings: Settings, snapshot_id: str | None = None, *, emit: Emit = ignore) -> Verification:
    """Digest every snapshot again, or the one named, check its databases and what is attested of its release.

    Raises UsageError for a snapshot that does not exist and for a public key that cannot be read.
    """
    pipeline = Pipeline(settings.release.root)
    # First what is attested: a key that is missing is known at once.
    attestations = verify_attestations(settings, pipeline, snapshot_id)
    snapshots = verify_all(pipeline.catalogue, snapshot_id, emit, assets=settings.release.assets)
    return Verification(snapshots=snapshots, attestations=attestations)


def verify_audit(settings: Settings) -> AuditVerdict:
    """Read the whole audit log and check its chain against every anchor; ``intact`` is the verdict."""
    pipeline = Pipeline(settings.release.root)
    return pipeline.audit.verify(pipeline.anchors())
