"""Compare two releases by their manifests and snapshots."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from release_tasks.archive.legacy import is_legacy, measure, without_modes
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.records import AssetRecord, Manifest, SnapshotMetadata
from release_tasks.core.redact import REDACTED, Redactor, is_secret_name

__all__ = ["Comparison", "Difference", "compare", "compare_releases"]

How = Literal["added", "removed", "changed"]
_MAX_CONFIG_BYTES = 1 << 20
_PRIVATE_SECTIONS = ("env", "headers", "args")  # of a server: values below these keys may be secret
_PRIVATE_NAMES = frozenset({  # the whole name of a key
    "auth", "authorization", "connection", "csrf", "dsn", "hmac", "jwt", "key", "pat", "pin", "psk", "pw", "pwd",
    "salt", "seed", "signature", "webhook",
})  # fmt: skip
_Stored = tuple[AssetRecord, Path]  # the path of its copy
_QUERY = re.compile(r"(https?://[^\s\"?#]*)[?#][^\s\"]*")


@frozen(kw_only=True)
class Difference:
    """One difference. ``where`` is ``version``, ``commit`` or an asset's key, ``what`` the part that differs."""

    where: str
    what: str
    how: How
    before: str | None = None
    after: str | None = None


@frozen(kw_only=True)
class Comparison:
    """All differences from release ``before`` to release ``after``. ``notes`` name what could not be compared."""

    before: str
    after: str
    differences: list[Difference] = field(factory=list)
    notes: list[str] = field(factory=list)


def compare_releases(settings: Settings, before: str, after: str) -> Comparison:
    """Compare two releases of the configured pipeline folder; raises as ``compare`` does."""
    paths = {os.path.relpath(asset.path, settings.project): key for key, asset in settings.release.assets.items()}
    pipeline = Pipeline(settings.release.root)
    found, provenance = compare(pipeline, before, after, paths), Provenance(settings, pipeline)
    for release_id in (before, after):
        manifest = pipeline.get_manifest(release_id)
        snapshot = _snapshot(pipeline, manifest, [])
        found.notes.extend(f"the manifest of {release_id}: {what}" for what in provenance.release_refusals(manifest))
        if snapshot is not None and (refusal := provenance.refusal(snapshot)):
            found.notes.append(f"the snapshot of {release_id} does not agree with its records: {refusal}")
    return found


def compare(pipeline: Pipeline, before: str, after: str, paths: Mapping[str, str] | None = None) -> Comparison:
    """Compare two prepared releases by their ids.

    ``paths`` has the keys of the configured assets by their paths below the project: an older tool used other keys.
    Raises UsageError when a release does not exist, StageFailed when its manifest cannot be read.
    """
    first, second = pipeline.get_manifest(before), pipeline.get_manifest(after)
    comparison = Comparison(before=before, after=after)
    for name, *values in (
        ("version", first.app_version, second.app_version),
        ("commit", _commit(first), _commit(second)),
        ("status", first.status, second.status),
        ("gates", _gates(first), _gates(second)),
    ):
        if values[0] != values[1]:
            comparison.differences.append(_difference(name, "", *values))
    old, new = (_snapshot(pipeline, manifest, comparison.notes) for manifest in (first, second))
    if old is None or new is None:
        return comparison
    if is_legacy(old) != is_legacy(new):  # two of the older tool have the same keys
        old, new = (_with_configured_keys(snapshot, paths or {}) for snapshot in (old, new))
    for key in dict.fromkeys(asset.key for asset in [*old.assets, *new.assets]):
        try:
            sides = [_stored(pipeline, snapshot, key) for snapshot in (old, new)]
            if is_legacy(old) or is_legacy(new):
                sides = [side and (without_modes(side[0]), side[1]) for side in sides]
            comparison.differences.extend(_asset_differences(key, *sides))
        except (StageFailed, OSError) as error:
            comparison.notes.append(f"{key} cannot be compared: {error}")
    return comparison


def _snapshot(pipeline: Pipeline, manifest: Manifest, notes: list[str]) -> SnapshotMetadata | None:
    if manifest.snapshot is None:
        notes.append(
            f"{manifest.release_id} was {manifest.status} and has no snapshot; only the manifests are compared"
        )
        return None
    try:
        return pipeline.catalogue.get(manifest.snapshot.snapshot_id)
    except (StageFailed, UsageError) as error:
        notes.append(f"the snapshot of {manifest.release_id} does not exist any more: {error}")
        return None


def _with_configured_keys(snapshot: SnapshotMetadata, paths: Mapping[str, str]) -> SnapshotMetadata:
    """Return a snapshot of the older tool with the keys that its assets have in the configuration."""
    if not is_legacy(snapshot):
        return snapshot
    assets = [evolve(a, key=paths.get(a.relative_path.removeprefix("assets/"), a.key)) for a in snapshot.assets]
    return evolve(snapshot, assets=assets)


def _commit(manifest: Manifest) -> str | None:
    return f"{manifest.git_commit} with changes" if manifest.git_commit and manifest.git_dirty else manifest.git_commit


def _gates(manifest: Manifest) -> str:
    return ", ".join(f"{check.id} {check.status}" for check in manifest.preflight.checks)


def _stored(pipeline: Pipeline, snapshot: SnapshotMetadata, key: str) -> _Stored | None:
    """Return an asset of a snapshot with the path of its copy, or None when it is absent or only a raw copy exists."""
    record = snapshot.asset(key)
    if record is None or not record.exists or record.damaged:
        return None
    folder = pipeline.catalogue.path(snapshot.snapshot_id)
    return measure(record, folder) if is_legacy(snapshot) else (record, stored_path(folder, record))


def _asset_differences(key: str, old: _Stored | None, new: _Stored | None) -> Iterator[Difference]:
    if old is None or new is None:
        if old != new:
            sizes = [None if side is None else f"{side[0].size} bytes" for side in (old, new)]
            yield _difference(key, "", *sizes)
        return
    before, after = old[0], new[0]
    if before.mode != after.mode:
        yield _difference(key, "mode", f"{before.mode:o}", f"{after.mode:o}")
    digests = [record.content_digest or record.sha256 for record in (before, after)]
    if digests[0] == digests[1] and digests[0] is not None:
        return
    found = [*_content_differences(key, old, new)]
    if before.size != after.size:
        found.insert(0, _difference(key, "bytes", str(before.size), str(after.size)))
    # The contents differ even when no part is named: values in rows, the order of keys.
    yield from found or [Difference(where=key, what="content", how="changed")]


def _content_differences(key: str, old: _Stored, new: _Stored) -> Iterator[Difference]:
    before, after = (kind_of(record).outline(record, path) for record, path in (old, new))
    if before and [listing.name for listing in before] == [listing.name for listing in after]:
        for listing, other in zip(before, after, strict=True):
            where = f"{key} {listing.name}".rstrip()
            yield from _name_differences(where, listing.values, other.values, is_shown=listing.is_shown)
    elif old[0].plugin or new[0].plugin:
        yield Difference(where=key, what="content", how="changed")  # state of a service, not configuration to show
    else:
        yield from _file_differences(key, old[1], new[1])


def _file_differences(key: str, old: Path, new: Path) -> Iterator[Difference]:
    before, after = _configuration(old), _configuration(new)
    if before is None or after is None:
        yield Difference(where=key, what="content", how="changed")
        return
    for path in sorted({*before, *after}):
        values = before.get(path), after.get(path)
        if values[0] != values[1]:  # compared with their secrets, shown without
            yield _difference(key, excerpt_line(".".join(path)), *(_shown(path, value) for value in values))


def _configuration(path: Path) -> dict[tuple[str, ...], str] | None:
    """Return the values of a JSON file, as JSON, by their path of keys; None for any other file."""
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        return None
    try:
        document = json.loads(path.read_bytes())
        return dict(_leaves(document)) if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, (Mapping, list)) and value:
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path, json.dumps(value, sort_keys=True)


def _shown(path: tuple[str, ...], value: str | None) -> str | None:
    if value is None:
        return None
    names = [name.lower() for name in path]
    is_private = any(section in names for section in _PRIVATE_SECTIONS) or not _PRIVATE_NAMES.isdisjoint(names)
    if is_private or any(is_secret_name(name) for name in path):
        return REDACTED
    shown = Redactor.of_process().redact_text(value)
    # A text such as ``"jwtKey": "..."`` is redacted everywhere: the key says what the value is, also in a list.
    key = json.dumps(next((name for name in reversed(path) if not name.isdecimal()), ""))
    if Redactor.of_process().redact_text(f"{{{key}: {value}}}") != f"{{{key}: {shown}}}":
        return REDACTED
    return excerpt_line(_QUERY.sub(rf"\1?{REDACTED}", shown))


def _name_differences(where: str, old: dict[str, str], new: dict[str, str], *, is_shown: bool) -> Iterator[Difference]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            shown = _difference(where, name, before, after)
            yield shown if is_shown else Difference(where=where, what=name, how=shown.how)


def _difference(where: str, what: str, before: str | None, after: str | None) -> Difference:
    how: How = "added" if before is None else "removed" if after is None else "changed"
    return Difference(where=where, what=what, how=how, before=before, after=after)
