"""Assets whose copies an asset kind of another package takes: what it wrote is judged, digested and checked here.

From then on the copy is a file or a folder like any other. No restore needs the plugin again.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import (
    capture_file,
    capture_tree,
    entries_digest,
    keep_owner_and_time,
    scan_file,
    scan_tree,
)
from release_tasks.assets.plugin_host.calls import KindCall, KindFailed, capture_copy, check_copy
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Meter
from release_tasks.core.records import AssetEntry, AssetRecord

__all__ = ["Examined", "capture_plain", "capture_through_plugin", "examine_copy"]

_TIMEOUT = 60.0
_MOST_TOLD = 3


@frozen(kw_only=True)
class Examined:
    """What the check of a plugin found in a copy. ``unchecked`` says why it could not look, None when it could."""

    problems: list[str]
    unchecked: str | None = None


def capture_through_plugin(record: AssetRecord, asset: AssetConfig, copy: Path, meter: Meter) -> AssetRecord:
    """Let the asset's plugin write ``copy``, and return the record of it once it is known to be sound.

    Raises KindFailed when the plugin does not do what it must, or finds the copy bad; what it wrote stays for the
    caller to remove. Raises whatever ``meter`` raises to give it up.
    """
    call = _call(record.key, asset)
    before = os.lstat(asset.path)
    try:
        capture_copy(call, asset.path, copy, meter.reach)
        _require_untouched(asset.path, before)
        captured = _take_over(evolve(record, plugin=asset.python), asset, copy, before)
        problems = check_copy(call, copy, lambda done, total: meter.reach(meter.done, meter.total))
        if problems:
            told = "; ".join(problems[:_MOST_TOLD])
            raise KindFailed(f"the asset kind {asset.python!r} finds its own copy bad: {told}", is_judged=True)
        if _digested(captured, copy) != _digested_as_recorded(captured) or _strays(copy):
            raise KindFailed(f"the asset kind {asset.python!r} changed the copy that it was to check")
    except KindFailed as error:
        told = f"{asset.path} (asset {record.key}): {error.message}"
        raise KindFailed(f"{told.rstrip('.')}.", is_judged=error.is_judged) from error
    meter.finish()
    return captured


def capture_plain(record: AssetRecord, asset: AssetConfig, copy: Path, meter: Meter) -> AssetRecord:
    """Copy what is there as it is, also while it is being written: better than nothing where the plugin fails."""
    info = os.lstat(asset.path)
    if stat.S_ISDIR(info.st_mode):
        left_out: list[str] = []
        entries = capture_tree(asset.path, copy, left_out, meter.add, must_hold_still=False)
        record = _with_entries(evolve(record, left_out=left_out or None), entries)
    else:
        entry = capture_file(asset.path, copy, meter.add, must_hold_still=False)
        record = evolve(record, kind="file", exists=True, size=entry.size, sha256=entry.sha256)
    meter.finish()
    return evolve(record, mode=stat.S_IMODE(info.st_mode))


def examine_copy(record: AssetRecord, asset: AssetConfig | None, copy: Path) -> Examined:
    """Let the plugin that took a copy check it, with the options of ``asset`` where that is still configured for it."""
    assert record.plugin is not None
    configured = asset if asset is not None and asset.python == record.plugin else None
    call = _call(record.key, configured or AssetConfig(python=record.plugin, path_=copy))
    try:
        return Examined(problems=check_copy(call, copy))
    except KindFailed as error:
        return Examined(problems=[error.message] if error.is_judged else [], unchecked=error.message)


def _call(key: str, asset: AssetConfig) -> KindCall:
    assert asset.python is not None
    timeout = _TIMEOUT if asset.timeout is None else asset.timeout
    return KindCall(plugin=asset.python, key=key, options=asset.with_, timeout=timeout)


def _require_untouched(source: Path, before: os.stat_result) -> None:
    """Raise KindFailed where it shows that the plugin changed the live state: new bytes may be its service's own."""
    try:
        after = os.lstat(source)
    except FileNotFoundError:
        raise KindFailed("it was gone after its capture") from None
    if (after.st_mode, after.st_uid, after.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
        raise KindFailed("its mode, owner or form was another after its capture")


def _take_over(record: AssetRecord, asset: AssetConfig, copy: Path, live: os.stat_result) -> AssetRecord:
    """Judge what the plugin wrote and make it a stored copy: digested, private, with the live owner and mode."""
    form = "a folder" if stat.S_ISDIR(live.st_mode) else "a file"
    who = f"the asset kind {asset.python!r}"
    try:
        mode = os.lstat(copy).st_mode
    except FileNotFoundError:
        raise KindFailed(f"{who} wrote nothing") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or stat.S_ISDIR(mode) != stat.S_ISDIR(live.st_mode):
        raise KindFailed(f"{who} should have written {form} and did not")
    if strays := _strays(copy):
        raise KindFailed(f"{who} wrote {strays[0]} beside its copy")
    try:
        _require_own_files(copy)
        captured = _digested(record, copy)
    except StageFailed as error:
        raise KindFailed(f"{who} wrote what cannot be kept: {error.message}") from error
    _make_private(copy)
    keep_owner_and_time(live, copy)
    return evolve(captured, exists=True, mode=stat.S_IMODE(live.st_mode))


def _digested(record: AssetRecord, copy: Path) -> AssetRecord:
    if copy.is_dir():
        return _with_entries(record, scan_tree(copy))
    entry = scan_file(copy)
    return evolve(record, kind="file", size=entry.size, sha256=entry.sha256)


def _digested_as_recorded(record: AssetRecord) -> AssetRecord:
    """Return the record with the modes of stored copies, which those of the live files are not."""
    if record.entries is None:
        return record
    return _with_entries(record, [evolve(entry, mode=_stored_mode(entry)) for entry in record.entries])


def _stored_mode(entry: AssetEntry) -> int:
    return {"file": 0o600, "directory": 0o700, "symlink": entry.mode}[entry.kind]


def _with_entries(record: AssetRecord, entries: list[AssetEntry]) -> AssetRecord:
    size = sum(entry.size for entry in entries)
    digest = entries_digest(entries)
    return evolve(record, kind="directory", exists=True, size=size, sha256=digest, entries=entries)


def _strays(copy: Path) -> list[str]:
    return sorted(name for name in os.listdir(copy.parent) if name != copy.name)


def _require_own_files(copy: Path) -> None:
    """Raise StageFailed for links that lead out and for files that have other names: what they hold can change."""
    top = os.path.normpath(copy)
    for folder, subfolders, files in os.walk(copy) if copy.is_dir() else [(str(copy.parent), [], [copy.name])]:
        for name in subfolders + files:
            path = os.path.join(folder, name)
            shown = os.path.relpath(path, copy.parent)
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(path)
                goal = os.path.normpath(os.path.join(folder, target))
                if os.path.isabs(target) or os.path.commonpath([goal, top]) != top:
                    raise StageFailed(f"{shown} is a link that leads out of the copy ({target})")
            elif stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
                raise StageFailed(
                    f"{os.path.relpath(path, copy.parent)} is a hard link, and changes with its other name"
                )


def _make_private(copy: Path) -> None:
    if not copy.is_dir():
        os.chmod(copy, 0o600)
        return
    os.chmod(copy, 0o700)
    for entry in os.scandir(copy):
        if not entry.is_symlink():
            _make_private(Path(entry.path))
