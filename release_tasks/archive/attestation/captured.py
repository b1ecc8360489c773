"""The signed statement inside a snapshot that no release took: an in-toto Statement with the link predicate.

A safety snapshot has no manifest, so nothing else could sign it. The statement is written only where the key is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from release_tasks.archive.attestation.signing import Signer, open_envelope
from release_tasks.archive.attestation.statement import STATEMENT_TYPE, require_subjects
from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object, read_document
from release_tasks.core.digests import sha256_file
from release_tasks.core.durable import write_atomic
from release_tasks.core.records import SnapshotMetadata

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["SNAPSHOT_STATEMENT", "read_signed_digests", "sign_snapshot"]

SNAPSHOT_STATEMENT = "statement.intoto.jsonl"
_PREDICATE_TYPE = "https://in-toto.io/attestation/link/v0.3"


def sign_snapshot(signer: Signer | None, folder: Path, metadata: SnapshotMetadata) -> None:
    """Write the signed statement about a snapshot into its ``folder``, which is not published yet; none without a key.

    Raises OSError.
    """
    if signer is None:
        return
    subjects = {
        metadata.snapshot_id: metadata.digest,
        _metadata_name(metadata.snapshot_id): sha256_file(folder / "metadata.json"),
    }
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"name": "release.rollback"},
    }
    write_atomic(folder / SNAPSHOT_STATEMENT, canonical_bytes(signer.envelope(canonical_bytes(document))) + b"\n")


def read_signed_digests(
    folder: Path, snapshot_id: str, keys: Mapping[str, Ed25519PublicKey]
) -> tuple[str | None, str | None] | None:
    """Return the signed digest of a snapshot and of its metadata.json; None when it has no statement.

    Raises InvalidDocument when the statement cannot be read, or has no valid signature of a key in ``keys``.
    """
    try:
        document = read_document(folder / SNAPSHOT_STATEMENT)
    except FileNotFoundError:
        return None
    statement: Mapping[str, Any] = parse_object(open_envelope(document, keys)[0], "its payload")
    if statement.get("predicateType") != _PREDICATE_TYPE:
        raise InvalidDocument("it is not the statement of a safety snapshot")
    signed = require_subjects(statement)
    return signed.get(snapshot_id), signed.get(_metadata_name(snapshot_id))


def _metadata_name(snapshot_id: str) -> str:
    return f"snapshots/{snapshot_id}/metadata.json"
