"""The asset kind of state that a plugin captures. This module validates, digests and checks the plugin's copy.

Afterwards the copy is an ordinary file or folder, and a restore does not need the plugin.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from attrs import NOTHING, Factory, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind, Move
from release_tasks.assets.directory import DIRECTORY, with_entries
from release_tasks.assets.file import FILE
from release_tasks.assets.files import Gaps, capture_file, keep_attributes, scan_file
from release_tasks.assets.findings import CopyCheck, Drift, Listing
from release_tasks.assets.placing import staged
from release_tasks.assets.plugin_host.calls import KindCall, KindFailed, capture_copy, check_copy, restore_copy
from release_tasks.assets.plugin_host.lookup import ASSETS, PluginUnusable, find_plugin
from release_tasks.assets.trees import capture_tree, scan_tree, tree_size
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.events import Emit, Meter, Noted, ignore
from release_tasks.core.holes import most_data
from release_tasks.core.options import Duration, option, valid_options
from release_tasks.core.place import Place, trusted
from release_tasks.core.records import AssetRecord
from release_tasks.core.tree import walk
from release_tasks.core.users import user_name

__all__ = ["PLUGIN", "PluginAssetOptions", "PluginKind", "capture_through_plugin"]

_TIMEOUT = 60.0
_MAX_SHOWN = 3


@frozen(kw_only=True)
class PluginAssetOptions:
    """State that a plugin captures."""

    python: str = option(
        "state that a plugin captures: its name in the entry point group `release_tasks.assets`", NOTHING
    )
    path: Path = option(
        "path of the state, a file or a folder", NOTHING, elsewhere="needs the key python, and python needs path"
    )
    with_: dict[str, Any] = option("options of the plugin", Factory(dict), validator=valid_options)
    timeout: Duration | None = option("timeout of the plugin's capture, and of its check; default 1m")
    restore: bool = option(
        "let the plugin restore the state; when the plugin fails, release-tasks restores the state from the copy", False
    )


class PluginKind(AssetKind):
    """State that a plugin captures and checks. The copy is a file or a folder, and is restored as such."""

    name = "python"
    options = PluginAssetOptions
    path_option = "path"
    restores = frozenset({"file", "directory"})
    records_as = "file"
    state_check_cost = 2  # the plugin makes a copy
    shares_blocks = False

    def capture_blockers(self, key: str, asset: AssetConfig) -> list[str]:
        """Also return a message with the command to type when the plugin is missing or broken."""
        blockers = super().capture_blockers(key, asset)
        try:
            find_plugin(ASSETS, asset.options.python)
        except PluginUnusable as error:
            blockers.append(f"{key}: {error.message}. Type: {error.next} (release.assets.{key}.python)")
        return blockers

    def size(self, asset: AssetConfig) -> int:
        """Return the size of the file, or of all files in the folder."""
        with asset.found() as live:
            return tree_size(live) if live.is_folder() else most_data(live.info())

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Let the plugin make a copy. A safety snapshot gets an ordinary copy when the plugin fails."""
        with asset.found() as live:
            meter = Meter(emit, "capture", record.key, live.info().st_size)
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
        # Copy the state even while it changes: when the plugin fails, this is better than no copy.
        gaps = Gaps()
        with asset.found() as live:
            mode = live.info().st_mode
            if stat.S_ISDIR(mode):
                content = capture_tree(live, trusted(copy), gaps, meter.add)
                record = evolve(with_entries(record, content.entries), mode=content.mode)
            elif stat.S_ISREG(mode):
                entry = capture_file(live, trusted(copy), meter.add, gaps)
                record = evolve(record, kind="file", exists=True, size=entry.size, sha256=entry.sha256, mode=entry.mode)
            else:
                return self.capture_raw(asset, record, copy, emit)
        meter.finish()
        return gaps.on(record)

    def examine(self, record: AssetRecord, asset: AssetConfig | None, copy: Path) -> CopyCheck | None:
        """Let the plugin that captured a copy check it; use the options of ``asset`` when its plugin is the same."""
        if record.plugin is None:
            return None
        if asset is None or asset.plugin != record.plugin:
            asset = AssetConfig(kind=self, options=PluginAssetOptions(python=record.plugin, path=copy))
        try:
            return CopyCheck(problems=check_copy(_call(record.key, asset), copy))
        except KindFailed as error:
            problems = [error.message] if error.is_state_bad else []
            return CopyCheck(problems=problems, unchecked=error.message)

    def find_drift(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, scratch: Path | None, emit: Emit = ignore
    ) -> Drift:
        """Let the plugin make and check a new copy; the service may have written data that it finds no problem in.

        When the plugin is missing or broken, only a note says so: a restore would remove data that the service wrote.
        """
        missing = self.find_misplaced(asset, record)
        if missing is not None:
            return missing
        assert scratch is not None
        copy = scratch / asset.path.name
        try:
            os.makedirs(scratch, 0o700)
            live = capture_through_plugin(record, asset, copy, Meter(ignore, "capture", record.key, 0))
        except (StageFailed, OSError) as error:
            if isinstance(error, KindFailed) and error.is_state_bad:
                return Drift(form=[error.message.rstrip(".")], is_lost=True)
            return Drift(notes=[f"could not be checked: {describe_error(error).rstrip('.')}"])
        return self.compare_copies(record, stored, live, copy)

    def compare_copies(self, record: AssetRecord, stored: Path, live: AssetRecord, copy: Path) -> Drift:
        """Compare two copies of data that the service writes."""
        return Drift(has_other_data=bool(self.compare(record, live)))

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the entries of a folder."""
        return _form(record).outline(record, copy)

    def digest(self, record: AssetRecord, place: Place) -> str | None:
        """Return the digest of a file or of a folder, depending on the plugin's copy."""
        return _form(record).digest(record, place)

    def compare(self, record: AssetRecord, live: AssetRecord) -> str:
        """Compare as a file or as a folder, depending on the plugin's copy."""
        return _form(record).compare(record, live)

    def commit(self, move: Move) -> None:
        """Let the plugin restore the state when ``restore`` is configured; then make the state equal to the snapshot.

        The plugin changes the live state in place, and afterwards the inode does not show whether the state is new.
        The journal therefore records an overwrite in place, and state that the plugin did not restore is overwritten
        from the snapshot.
        """
        plugin_restores = move.asset.options.restore and move.asset.plugin == move.record.plugin
        can_overwrite = not (move.step.mirrored or move.step.exchange_only)
        if plugin_restores and move.is_forward and can_overwrite and move.step.new and move.step.old:
            move = evolve(move, step=move.note(evolve(move.step, mirrored=True)))
            try:
                with move.asset.found() as live:
                    _require_safe(live)
                    copy = staged(live, move.rollback_id).path
                restore_copy(_call(move.step.key, move.asset), copy, move.asset.path)
            except KindFailed as error:
                move.emit(Noted(f"{move.asset.path} is restored from its copy, without the plugin: {error.message}"))
        super().commit(move)

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Overwrite the live state with the copy."""
        _form(record).overwrite_content(record, stored, live)


def _form(record: AssetRecord) -> AssetKind:
    return DIRECTORY if record.kind == "directory" else FILE


def capture_through_plugin(record: AssetRecord, asset: AssetConfig, copy: Path, meter: Meter) -> AssetRecord:
    """Let the asset's plugin write and check ``copy``, and return its record.

    Raises KindFailed when the plugin fails or finds the copy damaged; the caller removes the files then. An exception
    of ``meter`` cancels the capture and is raised.
    """
    call = _call(record.key, asset)
    try:
        with asset.found() as live:
            before = live.info()
            _require_safe(live)
        capture_copy(call, asset.path, copy, meter.reach)
        try:
            with asset.found() as live:
                after = live.info()
        except FileNotFoundError:
            raise KindFailed("it was missing after its capture") from None
        # The content is not compared: the service may have changed it.
        if (after.st_mode, after.st_uid, after.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
            raise KindFailed("its mode, owner or type had changed after its capture")
        captured = _accept_copy(evolve(record, plugin=asset.options.python), asset, copy, before)
        problems = check_copy(call, copy, lambda done, total: meter.reach(meter.done, meter.total))
        if problems:
            shown = "; ".join(problems[:_MAX_SHOWN])
            raise KindFailed(
                f"the asset kind {asset.options.python!r} found problems in its own copy: {shown}", is_state_bad=True
            )
        if _with_content(captured, copy) != _with_stored_modes(captured) or _extra_files(copy):
            raise KindFailed(f"the asset kind {asset.options.python!r} changed the copy during its check")
    except KindFailed as error:
        message = f"{asset.path} (asset {record.key}): {error.message}"
        raise KindFailed(f"{message.rstrip('.')}.", is_state_bad=error.is_state_bad) from error
    meter.finish()
    return captured


def _require_safe(live: Place) -> None:
    """Raise KindFailed for root when another user can change what a path leads to: a plugin opens files by path."""
    info = live.info()
    stranger = live.stranger
    if os.geteuid() == 0 and stranger is None and stat.S_ISDIR(info.st_mode):
        stranger = user_name(info.st_uid) if info.st_uid else None
    if stranger is not None:
        raise KindFailed(
            f"{stranger} can exchange files in it, and a plugin opens files by their paths: as root this is not safe. "
            f"Run the command as {stranger}"
        )


def _call(key: str, asset: AssetConfig) -> KindCall:
    timeout = _TIMEOUT if asset.options.timeout is None else asset.options.timeout
    return KindCall(plugin=asset.options.python, key=key, options=asset.options.with_, timeout=timeout)


def _accept_copy(record: AssetRecord, asset: AssetConfig, copy: Path, live: os.stat_result) -> AssetRecord:
    """Validate the plugin's copy and make it a stored copy: with digests, private modes and the live owner."""
    expected = "a folder" if stat.S_ISDIR(live.st_mode) else "a file"
    plugin = f"the asset kind {asset.options.python!r}"
    try:
        mode = os.lstat(copy).st_mode
    except FileNotFoundError:
        raise KindFailed(f"{plugin} wrote no copy") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or stat.S_ISDIR(mode) != stat.S_ISDIR(live.st_mode):
        raise KindFailed(f"{plugin} did not write {expected}")
    if extra := _extra_files(copy):
        raise KindFailed(f"{plugin} wrote {extra[0]} next to its copy")
    try:
        _require_independent_files(copy)
        captured = _with_content(record, copy)
    except StageFailed as error:
        raise KindFailed(f"{plugin} wrote an invalid copy: {error.message}") from error
    _make_private(copy)
    fd = os.open(copy, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        keep_attributes(fd, live, stat.S_IMODE(os.fstat(fd).st_mode), str(copy))
    finally:
        os.close(fd)
    return evolve(captured, exists=True, mode=stat.S_IMODE(live.st_mode))


def _with_content(record: AssetRecord, copy: Path) -> AssetRecord:
    """Return the record with the size, digest and entries of ``copy``."""
    if copy.is_dir():
        return with_entries(record, scan_tree(trusted(copy)).entries)
    entry = scan_file(trusted(copy))
    return evolve(record, kind="file", size=entry.size, sha256=entry.sha256)


def _with_stored_modes(record: AssetRecord) -> AssetRecord:
    """Return the record with the modes that stored copies have (0600 and 0700) instead of the live modes."""
    if record.entries is None:
        return record
    modes = {"file": 0o600, "directory": 0o700}
    return with_entries(record, [evolve(e, mode=modes.get(e.kind, e.mode)) for e in record.entries])


def _extra_files(copy: Path) -> list[str]:
    return sorted(name for name in os.listdir(copy.parent) if name != copy.name)


def _require_independent_files(copy: Path) -> None:
    """Raise StageFailed for links out of the copy and for hard links: their content can change outside the copy."""
    if not copy.is_dir():
        _require_one_name(copy.name, os.lstat(copy))
        return
    top = os.path.normpath(copy)
    for entry in walk(copy):
        shown = os.path.join(copy.name, entry.path)
        if stat.S_ISLNK(entry.info.st_mode):
            target = os.readlink(entry.name, dir_fd=entry.folder)
            resolved = os.path.normpath(os.path.join(copy, os.path.dirname(entry.path), target))
            if os.path.isabs(target) or os.path.commonpath([resolved, top]) != top:
                raise StageFailed(f"{shown} is a link to a path outside the copy ({target})")
        elif not entry.is_end:
            _require_one_name(shown, entry.info)


def _require_one_name(shown: str, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
        raise StageFailed(f"{shown} is a hard link to another file")


def _make_private(copy: Path) -> None:
    if not copy.is_dir():
        os.chmod(copy, 0o600)
        return
    for entry in walk(copy, force=True):
        if stat.S_ISDIR(entry.info.st_mode):
            os.fchmod(entry.fd, 0o700)
        elif stat.S_ISREG(entry.info.st_mode):
            os.chmod(entry.name, 0o600, dir_fd=entry.folder)


PLUGIN = PluginKind()
