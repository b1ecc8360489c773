"""The answer of ``release.status``: the current state, one line for each release, and the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from release_tasks.archive import legacy
from release_tasks.archive.aliases import follow
from release_tasks.archive.pipeline import ManifestFile
from release_tasks.archive.restore_tests import RestoreTest
from release_tasks.archive.status import ReleaseStatus, release_status
from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.config.schema import Settings
from release_tasks.core.clock import seconds_since
from release_tasks.core.codec import encode
from release_tasks.core.records import Manifest, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.core.units import rough_span, show_count, show_size
from release_tasks.report.screen import Screen
from release_tasks.report.values import CLOCK_SKEW, IN_THE_FUTURE

__all__ = ["overview", "show_overview"]

_ShowTime = Callable[[str | None], str]


def overview(settings: Settings, limit: int, found: ReleaseStatus | None = None) -> dict[str, Any]:
    """Return the latest ``limit`` releases and snapshots, latest first, and the rest of the state, as JSON values.

    Pass ``found`` if the caller has already read the state.
    """
    found = found or release_status(settings)
    shown = _snapshots(found)
    rollback = encode(found.rollback) if found.rollback else None
    if found.rollback_problem:
        rollback = {"status": "unreadable", "detail": found.rollback_problem}
    return {
        "root": str(found.root),
        "current": _current(found.current, shown),
        "releases": [_release(file) for file in reversed(found.manifests[-limit:])],
        "snapshots": shown[::-1][:limit],
        "storage": encode(found.stored) if found.stored else None,
        "proofProblem": found.restore_tests.problem,
        "unreadable": [{"snapshotId": bad.snapshot_id, "reason": bad.reason} for bad in found.unreadable],
        "rollback": rollback,
        "interrupted": found.is_interrupted,
        "lock": encode(found.holder) if found.holder else None,
        "plugins": [_plugin(key, asset.plugin) for key, asset in settings.release.assets.items() if asset.plugin],
    }


def show_overview(screen: Screen, found: ReleaseStatus, document: dict[str, Any]) -> None:
    """Show the current state, one line for each release and each safety snapshot of ``document``, and the totals.

    A terminal shows ages, which leave space for ids; a pipe or a log gets complete times.
    """
    is_terminal = screen.terminal.width is not None
    show_time = _show_age if is_terminal else _show_time
    _show_current(screen, document["current"], show_time)
    if document["interrupted"]:
        screen.verdict(
            "failed",
            "A rollback was interrupted while it changed files. "
            f"Before you start the service, run: {typed('release.recover')}",
        )
    if document["proofProblem"]:
        screen.verdict("broken", document["proofProblem"])
    for plugin in document["plugins"]:
        if plugin["problem"]:
            screen.verdict("missing", f"{plugin['asset']}: {plugin['problem']}. Until then no release can be prepared.")
    for bad in document["unreadable"]:
        screen.verdict("unreadable", f"{bad['snapshotId']}: {bad['reason']}")
        command = typed("release.verify", "--snapshot", bad["snapshotId"])
        screen.note(f"A rollback refuses this snapshot. See why: {command}")
    _show_last_rollback(screen, document["rollback"], show_time)
    if lock := document["lock"]:
        screen.line(f"Running now: {lock['command']} (pid {lock['pid']} on {lock['host']}, since {lock['since']})")
    if rows := _rows(found, document, show_time):
        screen.line()
        when = "AGE" if is_terminal else "TIME"
        screen.table(("RELEASE", when, "VERDICT", "SIZE", "RESTORE-TESTED", "SNAPSHOT"), rows)
    _show_totals(screen, found, document)


def _show_current(screen: Screen, current: dict[str, Any] | None, show_time: _ShowTime) -> None:
    if current is None:
        screen.line(f"No release is ready. Prepare one: {typed('release.prepare')}")
        return
    version = current["appVersion"] or "unknown version"
    time = show_time(current["generatedAt"])
    screen.verdict("ready", f"{current['releaseId']} ({version}), prepared {time}; gates: {current['gates']}")


def _show_last_rollback(screen: Screen, last: dict[str, Any] | None, show_time: _ShowTime) -> None:
    if last is None:
        return
    time = show_time(last.get("updatedAt"))
    screen.verdict(last["status"], f"last rollback: to {last.get('snapshotId')}, {time}")
    detail = str(last.get("detail") or "")
    if detail != "restored":  # the detail of every rollback that succeeded
        screen.note(detail)
    if last["status"] in ("failed", "unreadable"):
        screen.note(f"See what to do: {typed('release.diagnose')}")


def _rows(found: ReleaseStatus, document: dict[str, Any], show_time: _ShowTime) -> list[tuple[str, ...]]:
    """Return a row for each release of ``document``, then one for each snapshot of it that no manifest names."""
    rows: list[tuple[str, ...]] = []
    snapshots = {snapshot["snapshotId"]: snapshot for snapshot in _snapshots(found)}
    for release in document["releases"]:
        name = release["snapshotId"]
        snapshot = snapshots.get(name)
        place = name if snapshot else f"deleted ({name})" if name else f"none ({release['detail']})"
        time = show_time(release["generatedAt"]).removesuffix(" ago")
        rows.append((release["releaseId"], time, release["status"], *_measures(snapshot, show_time), place))
    named = {_release(file)["snapshotId"] for file in found.manifests}
    for snapshot in document["snapshots"]:
        if snapshot["snapshotId"] not in named:
            word = "safety" if snapshot["kind"] == "safety" else "no manifest"
            time = show_time(snapshot["createdAt"]).removesuffix(" ago")
            rows.append(
                (snapshot["releaseId"] or "", time, word, *_measures(snapshot, show_time), snapshot["snapshotId"])
            )
    return rows


def _measures(snapshot: dict[str, Any] | None, show_time: _ShowTime) -> tuple[str, str]:
    """Return the size of a snapshot, and when its last drill passed or failed."""
    if snapshot is None:
        return "", ""
    size, last = show_size(snapshot["size"]), snapshot["proof"]
    if snapshot["status"] != "sealed":
        size += f" ({snapshot['status']})"
    if last is None:
        return size, "never"
    failed = "" if last["status"] == "passed" else "FAILED "
    return size, f"{failed}{show_time(last['at'])}{' (booted)' if last['booted'] else ''}"


def _age(time: str) -> float | None:
    """Return the age in seconds, or None for a time in the future: the clock was changed, so the age is unknown."""
    seconds = seconds_since(time)
    return None if seconds is None or seconds < -CLOCK_SKEW else max(seconds, 0.0)


def _show_age(time: str | None) -> str:
    seconds = None if time is None else seconds_since(time)
    if seconds is None:
        return _show_time(time)
    return f"{rough_span(seconds)} ago" if seconds > -CLOCK_SKEW else IN_THE_FUTURE


def _show_time(time: str | None) -> str:
    return time or "at an unknown time"


def _show_totals(screen: Screen, found: ReleaseStatus, document: dict[str, Any]) -> None:
    snapshots = _snapshots(found)
    if not (found.manifests or snapshots):
        return
    releases = show_count(len(found.manifests), "release")
    if len(found.manifests) > len(document["releases"]):
        releases += f" ({len(document['releases'])} shown)"
    size = show_size(sum(snapshot["size"] for snapshot in snapshots))
    if found.stored is not None and found.stored.on_disk != found.stored.stands_for:
        size += f" in {show_size(found.stored.on_disk)}"
    totals = f"{releases}, {show_count(len(snapshots), 'snapshot')} of {size}"
    screen.line(totals if document["rollback"] else f"{totals}, no rollback yet")
    current = document["current"]
    snapshot = current["snapshot"] if current is not None else None
    if snapshot is not None and not snapshot["provedAt"]:
        command = typed("release.drill", "--snapshot", snapshot["snapshotId"])
        screen.line(f"Test the rollback to the current release: {command}")


def _snapshots(found: ReleaseStatus) -> list[dict[str, Any]]:
    aliases: dict[str, list[str]] = {}
    for name in found.aliases:
        aliases.setdefault(follow(found.aliases, name), []).append(name)
    tests = found.restore_tests.by_snapshot
    return [
        _snapshot(snapshot, tests.get(snapshot.snapshot_id), aliases.get(snapshot.snapshot_id, []))
        for snapshot in found.snapshots
    ]


def _current(manifest: Manifest | None, snapshots: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the release that latest.json names, with its snapshot if that still exists."""
    if manifest is None:
        return None
    counts = Counter("left out" if check.is_left_out else check.status for check in manifest.preflight.checks)
    name = manifest.snapshot.snapshot_id if manifest.snapshot is not None else None
    return {
        "releaseId": manifest.release_id,
        "appVersion": manifest.app_version,
        "gitCommit": manifest.git_commit,
        "generatedAt": manifest.generated_at,
        "ageSeconds": _age(manifest.generated_at),
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


def _snapshot(snapshot: SnapshotMetadata, proof: RestoreTest | None, aliases: list[str]) -> dict[str, Any]:
    return {
        "snapshotId": snapshot.snapshot_id,
        "releaseId": snapshot.release_id,
        "kind": snapshot.kind,
        "aliases": aliases,
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
