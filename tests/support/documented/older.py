"""A gateway with the older tool's files: manifests, snapshots, state, log, pairing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["AUDIT_LINES", "PAIRED", "write_older_project"]

# One JSON object per line, without a chain.
AUDIT_LINES = (
    '{"timestamp":"2025-02-01T10:00:00.000Z","event":"rollback","snapshotId":"v9_snapshot_20250201090000","ok":true}\n'
    '{"timestamp":"2025-03-02T10:00:00.000Z","event":"rollback","snapshotId":"v10_snapshot_20250301120000","ok":false}\n'
)
# Approved senders: Telegram in the plain format, WhatsApp in the versioned one.
PAIRED = {"telegram": "417299031", "whatsapp": "15551234567"}
_WAITING = {"telegram": ("417299032", "BR9VL5CR"), "whatsapp": ("15557654321", "K7MN2QXA")}


def write_older_project(root: Path, now: str, later: str) -> None:
    """Make the project: releases v9, v10 and the blocked v11; a pairing request is valid from ``now`` to ``later``."""
    pipeline = root / "memory" / "release-pipeline"
    for folder in ("identity", "gui", "src/interfaces", "memory/credentials"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "package.json").write_text('{"name": "gateway", "version": "0.9.3"}\n')
    (root / "gui" / "package.json").write_text("{}\n")
    (root / "src" / "interfaces" / "dispatcher.ts").write_text("export {};\n")
    (root / "identity" / "identity.json").write_text('{"id": "one"}\n')
    (root / "mcp-servers.json").write_text('{"mcpServers": {}}\n')
    with closing(sqlite3.connect(root / "memory" / "gateway.db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE messages(text)")
    for number, (release, taken) in enumerate((("v9", "2025-02-01T09:00:00"), ("v10", "2025-03-01T12:00:00"))):
        with closing(sqlite3.connect(root / "memory" / "gateway.db")) as database, database:
            database.execute("INSERT INTO messages VALUES (?)", (f"of {release}",))
        _snapshot(root, pipeline, release, taken)
        _manifest(pipeline, release, taken, number, is_ready=True)
    _manifest(pipeline, "v11", "2025-03-05T08:00:00", 2, is_ready=False)
    shutil.copy(pipeline / "manifests" / "v11.json", pipeline / "manifests" / "latest.json")
    _write(
        pipeline / "rollback-state.json",
        {"snapshotId": "v10_snapshot_20250301120000", "status": "success"}
        | {"updatedAt": "2025-03-02T10:00:00.000Z", "detail": "restored"},
    )
    (pipeline / "rollback-audit.log").write_text(AUDIT_LINES)
    _pairing(root / "memory" / "credentials", now, later)
    with closing(sqlite3.connect(root / "memory" / "gateway.db")) as database, database:
        database.execute("DELETE FROM messages")
    (root / "identity" / "identity.json").write_text('{"id": "other"}\n')


def _snapshot(root: Path, pipeline: Path, release: str, taken: str) -> None:
    """Copy the assets to their places below ``assets/``, without digests."""
    digits = "".join(filter(str.isdigit, taken))
    folder = pipeline / "snapshots" / f"{release}_snapshot_{digits}"
    stored = folder / "assets"
    (stored / "memory").mkdir(parents=True)
    with (
        closing(sqlite3.connect(root / "memory" / "gateway.db")) as live,
        closing(sqlite3.connect(stored / "memory" / "gateway.db")) as copy,
    ):
        live.backup(copy)
    shutil.copytree(root / "identity", stored / "identity")
    for name in ("mcp-servers.json", "package.json"):
        shutil.copy(root / name, stored / name)
    places = (
        ("gateway-db", "memory/gateway.db", "file", True),
        ("identity", "identity", "directory", True),
        ("mcp-servers", "mcp-servers.json", "file", True),
        ("package", "package.json", "file", True),
        ("policy-profiles", "memory/policy-profiles.json", "file", False),
    )
    assets = [
        {"key": key, "relativePath": place, "kind": kind, "exists": exists}
        | {"sourcePath": f"/srv/old/{place}", "snapshotPath": f"/srv/old/snapshots/{place}"}
        for key, place, kind, exists in places
    ]
    document = {"snapshotId": folder.name, "releaseId": release, "createdAt": f"{taken}.000Z", "retentionLimit": 5}
    _write(folder / "metadata.json", document | {"assets": assets, "metadataPath": "/srv/old/metadata.json"})


def _manifest(pipeline: Path, release: str, taken: str, number: int, *, is_ready: bool) -> None:
    digits = "".join(filter(str.isdigit, taken))
    failed = [] if is_ready else ["api-health"]
    checks = [
        {"id": name, "status": "failed" if name in failed else "passed", "detail": "", "durationMs": 10}
        for name in ("build", "tests", "api-health", "interface-readiness")
    ]
    document: dict[str, Any] = {
        "manifestVersion": 1,
        "releaseId": release,
        "generatedAt": f"{taken}.000Z",
        "appVersion": f"0.9.{number}",
        "gitCommit": None,
        "status": "ready" if is_ready else "blocked",
        "preflight": {"passed": is_ready, "checks": checks, "failedChecks": failed},
        "artifacts": [{"id": "gateway-db", "path": "/srv/old/memory/gateway.db", "exists": True}],
        "diagnostics": [f"{name}: not healthy" for name in failed],
        "manifestPath": f"/srv/old/memory/release-pipeline/manifests/{release}.json",
    }
    if is_ready:
        document["snapshot"] = {"snapshotId": f"{release}_snapshot_{digits}", "metadataPath": "/srv/old/metadata.json"}
    _write(pipeline / "manifests" / f"{release}.json", document)


def _pairing(folder: Path, now: str, later: str) -> None:
    sender, code = _WAITING["telegram"]
    plain = {"senderId": sender, "code": code, "requestedAt": now, "expiresAt": later}
    _write(folder / "telegram-pairing.json", {"requests": [plain]})
    _write(folder / "telegram-allowFrom.json", {"senderIds": [PAIRED["telegram"]]})
    sender, code = _WAITING["whatsapp"]
    versioned = {"id": sender, "code": code, "createdAt": now, "lastSeenAt": now, "meta": {"name": "Ada"}}
    _write(folder / "whatsapp-pairing.json", {"version": 1, "requests": [versioned]})
    _write(folder / "whatsapp-allowFrom.json", {"version": 1, "allowFrom": [PAIRED["whatsapp"]]})


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
