"""Read snapshots and manifests of the tool that this package replaces. Its snapshots have no digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from release_tasks.assets.directory import with_entries
from release_tasks.assets.files import scan_file
from release_tasks.assets.sqlite.database import content_digest
from release_tasks.assets.trees import scan_tree
from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetKind, AssetRecord, SnapshotMetadata

__all__ = ["has_older_form", "is_legacy", "measure", "read_metadata", "readable_manifest", "without_modes"]


def is_legacy(metadata: SnapshotMetadata) -> bool:
    """Return whether a snapshot has no digests to verify."""
    return metadata.format_version == 0


def has_older_form(document: dict[str, Any]) -> bool:
    """Return whether a document has none of the keys that only this package writes.

    A document of this package whose version was removed still has other such keys.
    """
    return not {"formatVersion", "checksum", "digest", "sequence"} & document.keys()


def read_metadata(document: dict[str, Any], name: str) -> SnapshotMetadata:
    """Read a metadata document without formatVersion. Its sequence is 0, below every sequence of this package.

    Raises InvalidDocument when a required key is missing or has the wrong type.
    """
    try:
        assets = [_asset(raw) for raw in document["assets"]]
        return SnapshotMetadata(
            format_version=0,
            snapshot_id=_text(document, "snapshotId"),
            release_id=_text(document, "releaseId"),
            kind="release",
            created_at=_text(document, "createdAt"),
            sequence=0,
            retention_limit=int(document.get("retentionLimit", 0)),
            digest="",
            assets=assets,
            metadata_path=_text(document, "metadataPath"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDocument(
            f"{name} has neither the format of this tool nor the format of the older tool ({error})"
        ) from error


def measure(record: AssetRecord, folder: Path) -> tuple[AssetRecord, Path]:
    """Return the record of an asset with what its copy in the snapshot ``folder`` shows, and the path of the copy.

    Modes are left out: the older tool did not keep them. Raises OSError, StageFailed for a link and a damaged database.
    """
    path = folder
    for name in record.relative_path.split("/"):
        path /= name
        if path.is_symlink():
            raise StageFailed(f"{path} is a symbolic link")
    if record.kind == "directory":
        return without_modes(with_entries(record, scan_tree(trusted(path)).entries)), path
    entry = scan_file(trusted(path))
    digest = content_digest(trusted(path)) if record.kind == "sqlite" else None
    return evolve(record, size=entry.size, sha256=entry.sha256, content_digest=digest), path


def without_modes(record: AssetRecord) -> AssetRecord:
    """Return a record that says nothing of modes, for a comparison with a copy of the older tool."""
    record = evolve(record, mode=0)
    return record if record.entries is None else with_entries(record, [evolve(e, mode=0) for e in record.entries])


def readable_manifest(document: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of the older tool with its checks converted; only the ids of those checks are certain."""
    preflight = document.get("preflight")
    if {"sequence", "checksum", "audit"} & document.keys() or not isinstance(preflight, dict):
        return document
    failed = [_check_id(raw) for raw in _listed(preflight, "failedChecks")]
    checks = [_check(raw, failed) for raw in _listed(preflight, "checks")]
    return {**document, "preflight": {**preflight, "checks": checks, "failedChecks": failed}}


def _listed(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _check_id(raw: Any) -> Any:
    return raw.get("id") if isinstance(raw, dict) else raw


def _check(raw: Any, failed: list[Any]) -> dict[str, Any]:
    name = _check_id(raw)
    detail = raw.get("detail") if isinstance(raw, dict) else None
    status = "failed" if name in failed else "passed"
    return {"id": name, "subsystem": name, "status": status, "detail": detail if isinstance(detail, str) else ""}


def _asset(raw: dict[str, Any]) -> AssetRecord:
    relative = _text(raw, "relativePath")
    if relative.startswith("/") or ".." in relative.split("/"):
        raise ValueError(f"path {relative!r} points outside the snapshot")
    kind: AssetKind = "directory" if raw["kind"] == "directory" else "file"
    if kind == "file" and relative.endswith((".db", ".sqlite", ".sqlite3")):
        kind = "sqlite"
    return AssetRecord(
        key=_text(raw, "key"),
        relative_path=f"assets/{relative}",
        kind=kind,
        exists=bool(raw["exists"]),
    )


def _text(document: dict[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} should be text")
    return value
