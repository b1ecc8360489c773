"""Assets whose copies an asset kind of another package takes: what it wrote is judged, digested and checked here.

From then on the copy is a file or a folder like any other. No restore needs the plugin again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

from attrs import NOTHING, Factory, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind, Examination, Listing, Move, Soundness, is_folder
from release_tasks.assets.directory import DIRECTORY, with_entries
from release_tasks.assets.file import FILE
from release_tasks.assets.files import capture_file, capture_tree, keep_owner_and_time, scan_file, scan_tree, tree_size
from release_tasks.assets.plugin_host.calls import KindCall, KindFailed, capture_copy, check_copy, restore_copy
from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, Noted, ignore
from release_tasks.core.options import Duration, option, valid_options
from release_tasks.core.records import AssetRecord

__all__ = ["PLUGIN", "PluginAssetOptions", "PluginKind", "capture_through_plugin"]

_TIMEOUT = 60.0
_MAX_SHOWN = 3


@frozen(kw_only=True)
class PluginAssetOptions:
    """State that an installed package captures."""

    python: str = option(
        "state that another package captures, from the entry point group `release_tasks.assets`", NOTHING
    )
    path: Path = option(
        "where the state lives, a file or a folder", NOTHING, elsewhere="goes with python, and python with path"
    )
    with_: dict[str, Any] = option("options of its own", Factory(dict), validator=valid_options)
    timeout: Duration | None = option("how long its capture may take, and its check; 1m when left out")
    restore: bool = option("let the package put the state back itself; where it fails, its copy is put back", False)


class PluginKind(AssetKind):
    """State whose copy is taken and checked by a plugin; the copy is a file or a folder, and is put back as one."""

    name = "python"
    options = PluginAssetOptions
    path_option = "path"
    restores = frozenset({"file", "directory"})
    records_as = "file"
    soundness_cost = 2  # the plugin takes a copy

    def missing(self, key: str, asset: AssetConfig) -> list[str]:
        """Say which package is missing or broken, and what to type."""
        try:
            find_plugin(ASSETS, asset.options.python)
        except PluginUnusable as error:
            return [f"{key}: {error.message}. Type: {error.next} (release.assets.{key}.python)"]
        return []

    def size(self, asset: AssetConfig) -> int:
        """Return how many bytes are there, in a file or in a folder."""
        return tree_size(asset.path) if asset.path.is_dir() else super().size(asset)

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Let the plugin take a copy; a safety snapshot does without it where it fails: no rollback may need it."""
        meter = Meter(emit, "capture", record.key, os.lstat(asset.path).st_size)
        try:
            return capture_through_plugin(record, asset, copy, meter)
        except KindFailed as error:
            if not allow_damaged:
                raise
            problem = error.message
        remove_tree(copy.parent)
        os.mkdir(copy.parent, 0o700)
        meter.reach(0, meter.total)
        record = evolve(record, plugin_problem=problem)
        # A copy of what is there, also while it is being written: better than nothing where the plugin fails.
        mode = os.lstat(asset.path).st_mode
        if stat.S_ISDIR(mode):
            left_out: list[str] = []
            entries = capture_tree(asset.path, copy, left_out, meter.add, must_be_stable=False)
            record = with_entries(evolve(record, left_out=left_out or None), entries)
        elif stat.S_ISREG(mode):
            entry = capture_file(asset.path, copy, meter.add, must_be_stable=False)
            record = evolve(record, kind="file", exists=True, size=entry.size, sha256=entry.sha256)
        else:
            return self.capture_raw(asset, record, copy, emit)
        meter.finish()
        return evolve(record, mode=stat.S_IMODE(mode))

    def examine(self, record: AssetRecord, asset: AssetConfig | None, copy: Path) -> Examination | None:
        """Let the plugin that took a copy check it, with the options of ``asset`` where that is configured for it."""
        if record.plugin is None:
            return None
        if asset is None or asset.plugin != record.plugin:
            asset = AssetConfig(kind=self, options=PluginAssetOptions(python=record.plugin, path=copy))
        try:
            return Examination(problems=check_copy(_call(record.key, asset), copy))
        except KindFailed as error:
            return Examination(problems=[error.message] if error.is_state_bad else [], unchecked=error.message)

    def is_sound(self, asset: AssetConfig, record: AssetRecord, scratch: Path) -> Soundness:
        """Return whether the asset is there and the plugin finds nothing wrong with a copy of it.

        A plugin that is missing or broken cannot tell, and is no reason to throw away what the service wrote.
        """
        try:
            info = os.lstat(asset.path)
        except (FileNotFoundError, NotADirectoryError):
            return Soundness(is_sound=not record.exists)
        is_of_form = stat.S_ISDIR(info.st_mode) if is_folder(record) else stat.S_ISREG(info.st_mode)
        if not record.exists or not asset.takes(record) or not is_of_form:
            return Soundness(is_sound=False)
        try:
            os.makedirs(scratch, 0o700)
            capture_through_plugin(record, asset, scratch / asset.path.name, Meter(ignore, "capture", record.key, 0))
        except (StageFailed, OSError) as error:
            if isinstance(error, KindFailed) and error.is_state_bad:
                return Soundness(is_sound=False)
            issue = f"{record.key} could not be examined and was left as it is: {error} --force restores it, too."
            return Soundness(is_sound=True, issue=issue)
        finally:
            with contextlib.suppress(OSError):  # the next run clears it away
                remove_tree(scratch)
        return Soundness(is_sound=True)

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the entries of a folder."""
        return _form(record).outline(record, copy)

    def digest(self, record: AssetRecord, path: Path) -> str | None:
        """Return the digest of the form that the plugin's copy has."""
        return _form(record).digest(record, path)

    def compare(self, record: AssetRecord, live: AssetRecord) -> str:
        """Compare as a file or a folder, whichever was captured."""
        return _form(record).compare(record, live)

    def commit(self, move: Move) -> None:
        """Let the plugin restore its state where that is configured, then make sure that it is as captured.

        The plugin changes the live state in place, so afterwards only the content tells old from new: the step is
        noted as one that writes in place, and whatever the plugin did not do is written from the snapshot.
        """
        is_own = move.asset.options.restore and move.asset.plugin == move.record.plugin
        if is_own and move.is_forward and not move.step.mirrored and move.step.new and move.step.old:
            move = evolve(move, step=move.note(evolve(move.step, mirrored=True)))
            try:
                restore_copy(_call(move.step.key, move.asset), move.staged, move.live)
            except KindFailed as error:
                move.emit(Noted(f"{move.live} is restored from its copy: {error.message}"))
        super().commit(move)

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Path) -> None:
        """Write the copy over what is there."""
        _form(record).overwrite_content(record, stored, live)


def _form(record: AssetRecord) -> AssetKind:
    return DIRECTORY if record.kind == "directory" else FILE


def capture_through_plugin(record: AssetRecord, asset: AssetConfig, copy: Path, meter: Meter) -> AssetRecord:
    """Let the asset's plugin write ``copy``, and return the record of it once it is known to be sound.

    Raises KindFailed when the plugin does not do what it must, or finds the copy bad; what it wrote stays for the
    caller to remove. Raises whatever ``meter`` raises to give it up.
    """
    call = _call(record.key, asset)
    before = os.lstat(asset.path)
    try:
        capture_copy(call, asset.path, copy, meter.reach)
        try:
            after = os.lstat(asset.path)
        except FileNotFoundError:
            raise KindFailed("it was gone after its capture") from None
        # No more can be asked: new bytes may be its service's own.
        if (after.st_mode, after.st_uid, after.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
            raise KindFailed("its mode, owner or form was another after its capture")
        captured = _take_over(evolve(record, plugin=asset.options.python), asset, copy, before)
        problems = check_copy(call, copy, lambda done, total: meter.reach(meter.done, meter.total))
        if problems:
            told = "; ".join(problems[:_MAX_SHOWN])
            raise KindFailed(
                f"the asset kind {asset.options.python!r} finds its own copy bad: {told}", is_state_bad=True
            )
        if _digested(captured, copy) != _digested_as_recorded(captured) or _strays(copy):
            raise KindFailed(f"the asset kind {asset.options.python!r} changed the copy that it was to check")
    except KindFailed as error:
        told = f"{asset.path} (asset {record.key}): {error.message}"
        raise KindFailed(f"{told.rstrip('.')}.", is_state_bad=error.is_state_bad) from error
    meter.finish()
    return captured


def _call(key: str, asset: AssetConfig) -> KindCall:
    timeout = _TIMEOUT if asset.options.timeout is None else asset.options.timeout
    return KindCall(plugin=asset.options.python, key=key, options=asset.options.with_, timeout=timeout)


def _take_over(record: AssetRecord, asset: AssetConfig, copy: Path, live: os.stat_result) -> AssetRecord:
    """Judge what the plugin wrote and make it a stored copy: digested, private, with the live owner and mode."""
    form = "a folder" if stat.S_ISDIR(live.st_mode) else "a file"
    who = f"the asset kind {asset.options.python!r}"
    try:
        mode = os.lstat(copy).st_mode
    except FileNotFoundError:
        raise KindFailed(f"{who} wrote nothing") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or stat.S_ISDIR(mode) != stat.S_ISDIR(live.st_mode):
        raise KindFailed(f"{who} should have written {form} and did not")
    if side_files := _strays(copy):
        raise KindFailed(f"{who} wrote {side_files[0]} beside its copy")
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
        return with_entries(record, scan_tree(copy))
    entry = scan_file(copy)
    return evolve(record, kind="file", size=entry.size, sha256=entry.sha256)


def _digested_as_recorded(record: AssetRecord) -> AssetRecord:
    """Return the record with the modes of stored copies, which those of the live files are not."""
    if record.entries is None:
        return record
    modes = {"file": 0o600, "directory": 0o700}
    return with_entries(record, [evolve(e, mode=modes.get(e.kind, e.mode)) for e in record.entries])


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
                raise StageFailed(f"{shown} is a hard link, and changes with its other name")


def _make_private(copy: Path) -> None:
    if not copy.is_dir():
        os.chmod(copy, 0o600)
        return
    os.chmod(copy, 0o700)
    for entry in os.scandir(copy):
        if not entry.is_symlink():
            _make_private(Path(entry.path))


PLUGIN = PluginKind()
