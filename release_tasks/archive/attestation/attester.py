"""What prepare writes beside a manifest: the statement on it as one line, in an envelope where there is a key."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from release_tasks.archive.attestation.signing import Signer, signer_of
from release_tasks.archive.attestation.statement import make_statement
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.digests import sha256_bytes, sha256_file
from release_tasks.core.records import AttestationReference, Manifest, SnapshotMetadata

__all__ = ["Attester"]


@frozen
class Attester:
    """Makes the statements of one configuration."""

    settings: Settings
    signer: Signer | None

    @classmethod
    def of(cls, settings: Settings) -> Attester:
        """Return the attester of this configuration; raises UsageError when its key cannot be used."""
        return cls(settings, signer_of(settings))

    @property
    def reference(self) -> AttestationReference:
        """What a manifest says of the statement beside it."""
        return AttestationReference(key_id=self.signer.key_id if self.signer else None)

    def line(
        self, manifest: Manifest, data: bytes, snapshot: SnapshotMetadata | None = None, folder: Path | None = None
    ) -> bytes:
        """Return the statement on ``manifest``, whose file holds ``data``; the snapshot lies in ``folder`` by now."""
        metadata = sha256_file(folder / "metadata.json") if folder is not None else None
        statement = canonical_bytes(make_statement(manifest, sha256_bytes(data), self.settings, snapshot, metadata))
        envelope = self.signer.envelope(statement) if self.signer is not None else None
        return (canonical_bytes(envelope) if envelope is not None else statement) + b"\n"
