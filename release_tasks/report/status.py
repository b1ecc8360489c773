"""Where the pipeline stands: releases, snapshots, the last rollback, who is at work."""

from __future__ import annotations

from collections import Counter
from typing import Any

from release_tasks.archive import legacy
from release_tasks.archive.pipeline import ManifestFile
from release_tasks.archive.restore_tests import RestoreTest
from release_tasks.archive.status import release_status
from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.config.schema import Settings
from release_tasks.core.clock import seconds_since
from release_tasks.core.codec import encode
from release_tasks.core.records import Manifest, SnapshotMetadata
from release_tasks.core.units import rough_span
from release_tasks.report.screen import Screen

__all__ = ["overview", "show_overview"]


def overview(settings: Settings, limit: int) -> dict[str, Any]:
    """Return the newest ``limit`` releases and snapshots, newest first, and what else there is, as JSON values."""
    found = release_status(settings)
    proved = found.restore_tests
    shown = [_snapshot(snapshot, proved.by_snapshot.get(snapshot.snapshot_id)) for snapshot in found.snapshots]
    rollback = encode(found.rollback) if found.rollback else None
    if found.rollback_problem:
        rollback = {"status": "unreadable", "detail": found.rollback_problem}
    return {
        "root": str(found.root),
        "current": _current(found.current, shown),
        "releases": [_release(file) for file in reversed(found.manifests[-limit:])],
        "snapshots": shown[::-1][:limit],
        "proofProblem": proved.problem,
        "unreadable": [{"snapshotId": bad.snapshot_id, "reason": bad.reason} for bad in found.unreadable],
        "rollback": rollback,
        "interrupted": found.is_interrupted,
        "lock": encode(found.holder) if found.holder else None,
        "plugins": [_plugin(key, asset.plugin) for key, asset in settings.release.assets.items() if asset.plugin],
    }


def show_overview(screen: Screen, found: dict[str, Any]) -> None:
    """Show what ``overview`` found: first how things stand, then history."""
    _show_current(screen, found["current"])
    if found["interrupted"]:
        screen.verdict("failed", "A rollback was interrupted in mid-swap. Run: inv release.recover")
    if found["proofProblem"]:
        screen.verdict("broken", found["proofProblem"])
    for plugin in found["plugins"]:
        if plugin["problem"]:
            screen.verdict("missing", f"{plugin['asset']}: {plugin['problem']}. No release can be prepared until then.")
    for bad in found["unreadable"]:
        screen.verdict("unreadable", f"{bad['snapshotId']}: {bad['reason']}")
        screen.note(f"A rollback refuses it. What is wrong with it: inv release.verify --snapshot {bad['snapshotId']}")
    _show_last_rollback(screen, found["rollback"])
    if lock := found["lock"]:
        screen.line(f"At work now: {lock['command']} (pid {lock['pid']} on {lock['host']}, since {lock['since']})")
    if found["releases"]:
        screen.line()
        rows = [
            (r["releaseId"], r["status"], r["generatedAt"] or "", r["snapshotId"] or "", r["detail"])
            for r in found["releases"]
        ]
        screen.table(("RELEASE", "STATUS", "WHEN", "SNAPSHOT", "DETAIL"), rows)
    if found["snapshots"]:
        screen.line()
        columns = ("SNAPSHOT", "KIND", "WHEN", "BYTES", "STATUS", "PROVED")
        shown = [
            (s["snapshotId"], s["kind"], s["createdAt"], str(s["size"]), s["status"], _proved(s["proof"]))
            for s in found["snapshots"]
        ]
        screen.table(columns, shown)


def _show_current(screen: Screen, current: dict[str, Any] | None) -> None:
    if current is None:
        screen.line("No release is ready: inv release.prepare")
        return
    version = current["appVersion"] or "unknown version"
    age = "" if current["ageSeconds"] is None else f", {rough_span(current['ageSeconds'])} ago"
    screen.verdict("ready", f"{current['releaseId']} ({version}), prepared {current['generatedAt']}{age}")
    screen.note(f"gates: {current['gates']}")
    snapshot = current["snapshot"]
    if snapshot is None:
        screen.note(f"its snapshot {current['snapshotId']} is not there any more")
        return
    how = f"not proved: inv release.drill --snapshot {snapshot['snapshotId']}"
    if snapshot["provedAt"]:
        how = f"restorable, proved at {snapshot['provedAt']}"
    screen.note(f"snapshot: {snapshot['snapshotId']}, {snapshot['size']} bytes, {snapshot['status']}, {how}")


def _show_last_rollback(screen: Screen, last: dict[str, Any] | None) -> None:
    if last is None:
        screen.line("No rollback so far.")
        return
    screen.verdict(last["status"], f"last rollback: to {last.get('snapshotId')} at {last.get('updatedAt')}")
    screen.note(str(last.get("detail", "")))
    if last.get("safetySnapshotId"):
        screen.note(f"the state before it: {last['safetySnapshotId']}")
    if last["status"] in ("failed", "unreadable"):
        screen.note("What to do now: inv release.diagnose")


def _current(manifest: Manifest | None, snapshots: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the release that latest.json names, with its snapshot as far as it is still there."""
    if manifest is None:
        return None
    counts = Counter("left out" if check.is_left_out else check.status for check in manifest.preflight.checks)
    name = manifest.snapshot.snapshot_id if manifest.snapshot is not None else None
    return {
        "releaseId": manifest.release_id,
        "appVersion": manifest.app_version,
        "gitCommit": manifest.git_commit,
        "generatedAt": manifest.generated_at,
        "ageSeconds": seconds_since(manifest.generated_at),
        "gates": ", ".join(f"{count} {status}" for status, count in counts.items()) or "none",
        "snapshotId": name,
        "snapshot": next((snapshot for snapshot in snapshots if snapshot["snapshotId"] == name), None),
    }


def _release(file: ManifestFile) -> dict[str, Any]:
    manifest = file.manifest
    if manifest is None:
        detail = {"status": "unreadable", "generatedAt": None, "snapshotId": None, "detail": file.reason}
        return {"releaseId": file.release_id, **detail}
    return {
        "releaseId": manifest.release_id,
        "status": manifest.status,
        "generatedAt": manifest.generated_at,
        "appVersion": manifest.app_version,
        "snapshotId": manifest.snapshot.snapshot_id if manifest.snapshot else None,
        "detail": manifest.diagnostics[0] if manifest.diagnostics else "",
    }


def _proved(proof: dict[str, Any] | None) -> str:
    if proof is None:
        return "never"
    how = "" if proof["status"] == "passed" else "FAILED "
    return f"{how}{proof['at']}{' (booted)' if proof['booted'] else ''}"


def _snapshot(snapshot: SnapshotMetadata, proof: RestoreTest | None) -> dict[str, Any]:
    return {
        "snapshotId": snapshot.snapshot_id,
        "releaseId": snapshot.release_id,
        "kind": snapshot.kind,
        "createdAt": snapshot.created_at,
        "sequence": snapshot.sequence,
        "size": sum(asset.size for asset in snapshot.assets),
        "digest": snapshot.digest,
        "status": "unverifiable" if legacy.is_legacy(snapshot) else "sealed",
        "proof": encode(proof) if proof else None,
        "provedAt": proof.at if proof and proof.status == "passed" else None,
    }


def _plugin(key: str, name: str) -> dict[str, Any]:
    try:
        return {"asset": key, "plugin": name, "package": find_plugin(ASSETS, name).package, "problem": None}
    except PluginUnusable as error:
        return {"asset": key, "plugin": name, "package": None, "problem": f"{error.message}. Type: {error.next}"}
