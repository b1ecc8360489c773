"""What the page shows of the last release: a few fields of ``manifests/latest.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from release_tasks.gateway.errors import SettingsError
from release_tasks.gateway.settings import read_json_object

__all__ = ["last_release"]


def last_release(release_root: Path | None) -> dict[str, Any] | None:
    """Return the last release, or None if there is none; raises SettingsError."""
    if release_root is None:
        return None
    try:
        manifest = read_json_object(release_root / "manifests" / "latest.json")
    except SettingsError as error:
        if error.is_missing:
            return None
        raise
    snapshot, preflight = manifest.get("snapshot"), manifest.get("preflight")
    return {
        "releaseId": manifest.get("releaseId"),
        "status": manifest.get("status"),
        "generatedAt": manifest.get("generatedAt"),
        "appVersion": manifest.get("appVersion"),
        "gitCommit": manifest.get("gitCommit"),
        "snapshotId": snapshot.get("snapshotId") if isinstance(snapshot, dict) else None,
        "failedChecks": preflight.get("failedChecks", []) if isinstance(preflight, dict) else [],
    }
