"""The two digests of a snapshot: of its content, and of its metadata document; the second also seals the journal."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object, pretty_bytes
from release_tasks.core.codec import encode
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, SnapshotMetadata

__all__ = ["is_sealed", "sealed", "sealed_document", "snapshot_digest"]


def snapshot_digest(assets: list[AssetRecord]) -> str:
    """Return the digest of captured state: equal state gives an equal digest, wherever and whenever it was captured.

    It covers key, kind, presence, bytes and modes of every asset, and neither paths, owners, times nor journal modes.
    """
    return sha256_bytes(canonical_bytes([_content(asset) for asset in sorted(assets, key=lambda a: a.key)]))


def sealed(metadata: SnapshotMetadata) -> SnapshotMetadata:
    """Return ``metadata`` with its checksum over every other key.

    Raises StageFailed when it holds more than a reader takes: a snapshot that nobody can read again is none.
    """
    whole = evolve(metadata, checksum=_checksum(encode(metadata)))
    try:
        parse_object(pretty_bytes(encode(whole)), "the metadata of the snapshot")
    except InvalidDocument as error:
        raise StageFailed(
            f"The folders in release.assets hold more names than one snapshot can: {error}. Leave out those that "
            "need not come back, for instance by naming the folders inside one by one."
        ) from error
    return whole


def sealed_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` with a ``checksum`` over every other key, by which ``is_sealed`` knows it again."""
    return {**document, "checksum": _checksum(document)}


def is_sealed(document: dict[str, Any]) -> bool:
    """Say whether a parsed document still has the checksum it was written with."""
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
