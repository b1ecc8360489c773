"""The digest of a snapshot's content, and the checksum of documents such as its metadata and the journal."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object, pretty_bytes
from release_tasks.core.codec import encode
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, SnapshotMetadata

__all__ = ["is_sealed", "metadata_bytes", "sealed", "sealed_document", "snapshot_digest"]


def snapshot_digest(assets: list[AssetRecord]) -> str:
    """Return the digest of captured state: equal state gives an equal digest, on any machine and at any time.

    The digest covers key, kind, presence, bytes and modes of every asset. It excludes paths, owners, times and
    journal modes.
    """
    return sha256_bytes(canonical_bytes([_content(asset) for asset in sorted(assets, key=lambda a: a.key)]))


def sealed(metadata: SnapshotMetadata) -> SnapshotMetadata:
    """Return ``metadata`` with its checksum over every other key.

    Raises StageFailed when the document is larger than the limits of a reader. A safety snapshot then first loses the
    names that only inform the operator: it must not fail because of them.
    """
    result = evolve(metadata, checksum=_checksum(_metadata_document(metadata)))
    try:
        parse_object(metadata_bytes(result), "the metadata of the snapshot")
    except InvalidDocument as error:
        if any(asset.left_out or asset.unstable for asset in metadata.assets):
            return sealed(evolve(metadata, assets=[evolve(a, left_out=None, unstable=None) for a in metadata.assets]))
        raise StageFailed(
            f"release.assets contains too many assets for one snapshot: {error}. Combine files of one folder into one "
            "directory asset."
        ) from error
    return result


def metadata_bytes(metadata: SnapshotMetadata) -> bytes:
    """Return the content of metadata.json."""
    return pretty_bytes(_metadata_document(metadata))


def _metadata_document(metadata: SnapshotMetadata) -> dict[str, Any]:
    """Return metadata as it is written: without the entries, which are in files of their own.

    A record that is no delta has no keys of a delta, as in format 2.
    """
    document = encode(evolve(metadata, assets=[evolve(asset, entries=None) for asset in metadata.assets]))
    for asset in document["assets"]:
        del asset["entries"]
        if not asset["pending"]:
            del asset["pending"]
        if asset["delta"] is None:
            del asset["delta"]
    return document


def sealed_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` with a ``checksum`` over every other key, which ``is_sealed`` verifies."""
    return {**document, "checksum": _checksum(document)}


def is_sealed(document: dict[str, Any]) -> bool:
    """Return whether the checksum of a parsed document is correct."""
    return document.get("checksum") == _checksum(document)


def _checksum(document: dict[str, Any]) -> str:
    return sha256_bytes(canonical_bytes({key: value for key, value in document.items() if key != "checksum"}))


def _content(asset: AssetRecord) -> dict[str, Any]:
    return {
        "key": asset.key,
        "kind": asset.kind,
        "exists": asset.exists,
        "size": asset.size,
        "digest": asset.content_digest or asset.sha256,
        "mode": asset.mode,
        "damaged": asset.damaged,
    }
