"""Snapshots of both formats on disk, as docs/formats.md describes them: nothing here uses the code under test.

A document here is metadata with the entries of every folder in its record, as in format 1. In format 2 they are read
from and written to ``entries/<key>.jsonl``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

__all__ = [
    "append_taken",
    "canonical",
    "forge",
    "parts_of",
    "read_snapshot",
    "replace_snapshot",
    "reseal",
    "sha256_of",
    "write_format_1",
    "write_snapshot",
]

Document = dict[str, Any]


def canonical(value: Any) -> bytes:
    """Return ``value`` as canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of the canonical form of ``value``."""
    return hashlib.sha256(canonical(value)).hexdigest()


def read_snapshot(folder: Path) -> Document:
    """Return the document of the snapshot in ``folder``."""
    document: Document = json.loads((folder / "metadata.json").read_bytes())
    for asset in document["assets"]:
        path = folder / "entries" / f"{asset['key']}.jsonl"
        if path.exists():
            asset["entries"] = [json.loads(line) for line in path.read_bytes().splitlines()]
        asset.setdefault("entries", None)
    return document


def write_snapshot(folder: Path, document: Document) -> None:
    """Write a document over the one in ``folder``, and its event into the audit log; it may be wrong in every part."""
    replace_snapshot(folder, document)
    if isinstance(document.get("digest"), str):
        append_taken(folder.parent.parent / "rollback-audit.log", folder.name, document)


def append_taken(log: Path, snapshot_id: str, document: Document) -> None:
    """Append the event of a snapshot to an audit log, which stays a valid chain."""
    lines = log.read_bytes().splitlines() if log.exists() else []
    last: Document = json.loads(lines[-1]) if lines else {"seq": 0, "hash": "0" * 64}
    record = {
        "event": "snapshot.taken", "status": "taken", "detail": "", "actor": "root", "host": "host",
        "time": "2026-01-01T00:00:00.000Z", "snapshotId": snapshot_id, "digest": document.get("digest"),
        "checksum": document.get("checksum"), "seq": last["seq"] + 1, "prev": last["hash"],
    }  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(canonical({**record, "hash": sha256_of(record)}) + b"\n")


def replace_snapshot(folder: Path, document: Document) -> None:
    """Write a document over the one in ``folder``, and nothing into the audit log."""
    metadata, files = parts_of(document)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    shutil.rmtree(folder / "entries", ignore_errors=True)
    for key, lines in files.items():
        (folder / "entries").mkdir(exist_ok=True)
        (folder / "entries" / f"{key}.jsonl").write_bytes(lines)


def parts_of(document: Document) -> tuple[Document, dict[str, bytes]]:
    """Return the content of metadata.json, and the content of each file of entries by key."""
    if document.get("formatVersion") == 1 and document["formatVersion"] is not True:
        return document, {}
    document, files = copy.deepcopy(document), {}
    assets = document.get("assets")
    for asset in assets if isinstance(assets, list) else []:
        entries = asset.pop("entries", None) if isinstance(asset, dict) else None
        if entries is not None and _is_name(asset.get("key")):
            lines = entries if isinstance(entries, list) else [entries]
            files[asset["key"]] = b"".join(canonical(entry) + b"\n" for entry in lines)
    return document, files


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isalnum() and len(key) < 200


def reseal(document: Document) -> Document:
    """Return the document with the checksum of its present content."""
    unsealed = {key: value for key, value in document.items() if key != "checksum"}
    return {**unsealed, "checksum": sha256_of(parts_of(unsealed)[0])}


def forge(document: Document) -> Document:
    """Return metadata with every digest of its present content, as an attacker who knows the formats computes them."""
    document = copy.deepcopy(document)
    assets = document.get("assets")
    if isinstance(assets, list) and all(isinstance(asset, dict) for asset in assets):
        for asset in assets:
            if asset.get("kind") == "directory" and isinstance(asset.get("entries"), list):
                asset["sha256"] = sha256_of(asset["entries"])
        names = ("key", "kind", "exists", "size", "mode", "damaged")
        records = [
            {**{name: asset.get(name) for name in names}, "digest": asset.get("contentDigest") or asset.get("sha256")}
            for asset in sorted(assets, key=lambda asset: str(asset.get("key")))
        ]
        document["digest"] = sha256_of(records)
    return reseal(document)


def write_format_1(snapshots: Path, release_id: str, assets: dict[str, tuple[str, Path]], sequence: int = 1) -> Path:
    """Write a snapshot of format 1 of ``assets`` (kind and live path by key); return its folder.

    Databases must be closed and have no WAL: their files are copied.
    """
    folder = snapshots / f"{release_id}_snapshot"
    (folder / "assets").mkdir(parents=True)
    records = []
    for key, (kind, live) in assets.items():
        record: Document = {
            "key": key, "relativePath": f"assets/{key}/{live.name}", "kind": kind, "exists": os.path.lexists(live),
            "size": 0, "sha256": None, "contentDigest": None, "mode": None, "journalMode": None, "entries": None,
            "damaged": False,
        }  # fmt: skip
        records.append(record)
        if record["exists"]:
            stored = folder / record["relativePath"]
            stored.parent.mkdir()
            record["mode"] = stat.S_IMODE(live.stat().st_mode)
            if kind == "directory":
                shutil.copytree(live, stored, symlinks=True)
                record["entries"] = _entries(stored)
                record["size"] = sum(entry["size"] for entry in record["entries"])
            else:
                shutil.copy2(live, stored)
                if kind == "sqlite":
                    _write_canonical_header(stored)
                record["size"], record["sha256"] = stored.stat().st_size, _sha256_file(stored)
            if kind == "sqlite":
                record["contentDigest"], record["journalMode"] = record["sha256"], "delete"
    document = {
        "formatVersion": 1, "snapshotId": folder.name, "releaseId": release_id, "kind": "release",
        "createdAt": "2026-01-01T00:00:00.000Z", "sequence": sequence, "retentionLimit": 5, "digest": "",
        "assets": records, "metadataPath": str(folder / "metadata.json"), "audit": None,
    }  # fmt: skip
    write_snapshot(folder, forge(document))
    return folder


def _entries(root: Path) -> list[Document]:
    entries = []
    for path in root.rglob("*"):
        entry: Document = {"path": str(path.relative_to(root)), "size": 0, "sha256": None, "target": None}
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            entry |= {"kind": "symlink", "mode": 0o777, "target": os.readlink(path)}
        elif path.is_dir():
            entry |= {"kind": "directory", "mode": mode}
        else:
            entry |= {"kind": "file", "mode": mode, "size": path.stat().st_size, "sha256": _sha256_file(path)}
        entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["path"]))


def _write_canonical_header(database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[18:20], data[24:28], data[40:44], data[92:100] = b"\x01\x01", bytes(4), bytes(4), bytes(8)
    database.write_bytes(data)


def _sha256_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
