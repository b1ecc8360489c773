"""The folders above the assets: a snapshot records their modes and owners, and a restore brings them back.

Only folders above a configured asset are ever created or changed; a path in a snapshot alone has no effect. A folder
above an asset outside the project is created, but an existing one is not changed: other programs use it, too. Root
changes a folder only if it has the recorded owner already: a user can move a folder of any user into its place.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import set_rights
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.place import HALF_MADE, Place, Rights, find, found
from release_tasks.core.records import ParentFolder, SnapshotMetadata
from release_tasks.core.typed import quoted
from release_tasks.core.users import user_name

__all__ = ["Parents", "invalid_parent", "remove_empty"]

_ALL_BITS = 0o7777
_MAX_ID = 2**32 - 2  # 2**32 - 1 means "no change" for chown(2)


@frozen
class Parents:
    """The folders above the configured ``assets`` of ``project``."""

    project: Path
    assets: Mapping[str, AssetConfig]

    def record(self, opened: Mapping[Path, int] | None = None) -> list[ParentFolder]:
        """Return the records of the folders above all assets, outermost first.

        ``opened`` has the modes of folders before ``made_accessible``. A link is not recorded.
        """
        records = []
        for folder in self._above(self.assets):
            with contextlib.suppress(OSError), found(folder) as place:
                info = place.info()
                if stat.S_ISDIR(info.st_mode):
                    mode = (opened or {}).get(folder, stat.S_IMODE(info.st_mode))
                    records.append(ParentFolder(path=self._name(folder), mode=mode, uid=info.st_uid, gid=info.st_gid))
        return records

    def create(self, key: str, target: SnapshotMetadata) -> list[Path]:
        """Create the missing folders above the asset ``key`` as ``target`` recorded them, and return them.

        A folder without a record gets mode 0700. Raises StageFailed when a file or a link is in the place of a folder,
        OSError.
        """
        recorded = self._recorded(target)
        missing = self._missing(key, recorded)
        for folder in missing:
            _create(folder, recorded.get(folder))
        return missing

    def blockers(self, target: SnapshotMetadata) -> list[str]:
        """Return the reasons why ``create`` would fail for the assets of ``target``, one message for each folder."""
        recorded = self._recorded(target)
        problems: dict[str, None] = {}
        for key in (record.key for record in target.assets if record.exists and record.key in self.assets):
            try:
                self._missing(key, recorded)
            except StageFailed as error:
                problems[error.message] = None
        return list(problems)

    def _missing(self, key: str, recorded: Mapping[Path, ParentFolder]) -> list[Path]:
        """Return the missing folders above an asset, outermost first. Raises StageFailed as ``create`` does."""
        missing: list[Path] = []
        for folder in [*self.assets[key].path.parents][:-1]:
            with find(folder) as place:
                info = None if place is None else place.look()
                if place is not None and info is not None and folder in recorded and self._is_inside(folder):
                    _require_owner(place, info, recorded[folder])
            if info is None:
                missing.append(folder)
                continue
            with find(folder / "any") as inside:  # follows a link as far as root may follow it
                if inside is None:
                    name = quoted(str(folder))  # -T: another user may have made a link to a folder at the second name
                    raise StageFailed(f"{folder} is not a folder. Move it away, and retry: mv -T {name} {name}.before")
            if missing and folder in recorded and stat.S_ISLNK(info.st_mode):
                raise StageFailed(
                    f"{folder} is a symbolic link, and was a folder at the time of the snapshot. Nothing is created "
                    "where it leads to. Remove the link, and retry."
                )
        return missing[::-1]

    def differences(self, target: SnapshotMetadata) -> dict[str, str]:
        """Return how each existing folder differs from its record, as far as this process may change that."""
        differences = {}
        for folder, record in self._restored(target):
            with contextlib.suppress(StageFailed, OSError), found(folder) as place:
                info = place.info()
                difference = _difference(info, record)
                if difference and place.is_own_folder(info, Rights(record.uid, record.gid, record.mode)):
                    differences[self._name(folder)] = difference
        return differences

    def restore(self, target: SnapshotMetadata) -> list[str]:
        """Give every folder inside the project the mode and owner that ``target`` recorded; repeatable.

        Returns one sentence for each folder where this is not possible, and does not raise: the state in it is
        restored in any case.
        """
        problems = []
        for folder, record in self._restored(target):
            try:
                with found(folder) as place:
                    if _difference(place.info(), record):
                        _set_rights(place, record.mode, record)
                        place.flush_folder()
            except (StageFailed, OSError) as error:
                problems.append(f"{folder} did not get its mode {record.mode:04o} back: {describe_error(error)}")
        return problems

    @contextlib.contextmanager
    def made_accessible(self) -> Iterator[dict[Path, int]]:
        """Give the owner, if this process is the owner and not root, access to the folders while the block runs.

        Yields the former modes. They are set again at the end, unless the block removes them from the mapping.
        """
        former: dict[Path, int] = {}
        try:
            for folder in self._above(self.assets) if os.geteuid() else ():
                with contextlib.suppress(OSError), found(folder) as place:
                    info = place.info()
                    mode = stat.S_IMODE(info.st_mode)
                    is_ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and self._is_inside(folder)
                    if is_ours and mode & stat.S_IRWXU != stat.S_IRWXU:
                        _set_rights(place, mode | stat.S_IRWXU)
                        former[folder] = mode
            yield former
        finally:
            for folder, mode in reversed(former.items()):
                with contextlib.suppress(OSError), found(folder) as place:
                    _set_rights(place, mode)

    def _above(self, keys: Iterable[str]) -> list[Path]:
        """Return the folders above assets: inside the project those below its folder, else all but the root."""
        folders: dict[Path, None] = {}
        for key in keys:
            parents = [*self.assets[key].path.parents][:-1]
            inside = [folder for folder in parents if self._is_inside(folder)]
            folders |= dict.fromkeys(inside or ([] if self.project in parents else parents))
        return sorted(folders, key=lambda folder: len(folder.parts))

    def _restored(self, target: SnapshotMetadata) -> list[tuple[Path, ParentFolder]]:
        """Return the folders inside the project above the assets of ``target``, with their records, outermost first.

        Folders below a link are left out.
        """
        recorded = self._recorded(target)
        keys = [record.key for record in target.assets if record.key in self.assets and record.exists]
        folders = [folder for folder in self._above(keys) if folder in recorded and self._is_inside(folder)]
        links = {folder for folder in self._above(keys) if folder.is_symlink()}
        return [(folder, recorded[folder]) for folder in folders if not links & {folder, *folder.parents}]

    def _recorded(self, target: SnapshotMetadata) -> dict[Path, ParentFolder]:
        names = {self._name(folder): folder for folder in self._above(self.assets)}
        return {names[record.path]: record for record in target.parents or [] if record.path in names}

    def _is_inside(self, folder: Path) -> bool:
        return self.project in folder.parents

    def _name(self, folder: Path) -> str:
        return str(folder.relative_to(self.project) if self._is_inside(folder) else folder)


def invalid_parent(metadata: SnapshotMetadata) -> str | None:
    """Return the path of a recorded folder with a value that no capture writes, or None."""
    for record in metadata.parents or []:
        ids = (record.uid, record.gid)
        if not 0 <= record.mode <= _ALL_BITS or not all(0 <= number <= _MAX_ID for number in ids):
            return record.path
    return None


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove created folders, innermost first, when a rollback was undone. A folder with content stays."""
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(StageFailed, OSError), found(folder) as place:
            os.rmdir(place.at, dir_fd=place.folder)
            place.flush_folder()


def _create(folder: Path, record: ParentFolder | None) -> None:
    """Create a folder durably; it is never open to more users than recorded, whatever the umask is."""
    with found(folder) as place:
        with place.new_tree(HALF_MADE) as created:
            if record is not None:
                # The new state is written into the folder first; ``restore`` takes away what its owner had not.
                mode = record.mode | (stat.S_IRWXU if os.geteuid() else 0)
                with contextlib.suppress(OSError):
                    set_rights(created.fd, os.fstat(created.fd), (record.uid, record.gid), mode)
            else:
                os.fchmod(created.fd, 0o700)  # without the group bit of a folder above
            os.fsync(created.fd)
        place.flush_folder()


def _difference(info: os.stat_result, record: ParentFolder) -> str:
    """Describe how a folder differs from its record; an empty text when it is no folder any more."""
    if not stat.S_ISDIR(info.st_mode):
        return ""
    found = []
    mode, is_root = stat.S_IMODE(info.st_mode), os.geteuid() == 0
    if mode != record.mode and (is_root or info.st_uid == os.geteuid()):
        found.append(f"mode {mode:04o} instead of {record.mode:04o}")
    if is_root and (info.st_uid, info.st_gid) != (record.uid, record.gid):
        found.append(f"owner {info.st_uid}:{info.st_gid} instead of {record.uid}:{record.gid}")
    return ", ".join(found)


def _require_owner(place: Place, info: os.stat_result, record: ParentFolder) -> None:
    """Raise StageFailed when a folder has another owner than recorded, and may be one that was moved here."""
    if stat.S_ISDIR(info.st_mode) and not place.is_own_folder(info, Rights(record.uid, info.st_gid, 0)):
        raise StageFailed(
            f"{place.path} belongs to {user_name(info.st_uid)}, and to {user_name(record.uid)} at the time of the "
            f"snapshot. {place.stranger} may have put it there, so root does not use it. Look what is in it. If it is "
            "another folder, move it to a folder of its owner: the rollback makes a new one. If it is the right one, "
            "give it back to its owner. Then retry."
        )


def _set_rights(place: Place, mode: int, record: ParentFolder | None = None) -> None:
    """Set the mode of a folder, also of one that cannot be read; never of the target of a link.

    As root, give it the recorded owner. Raises StageFailed when another user may have moved the folder there.
    """
    look = getattr(os, "O_PATH", None)
    if look is None:  # macOS has a chmod that does not follow links
        os.chmod(place.at, mode, dir_fd=place.folder, follow_symlinks=False)
        return
    fd = os.open(place.at, look | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
    try:
        itself = f"/proc/self/fd/{fd}"  # fchmod(2) and fchown(2) refuse such a descriptor, open(2)
        if record is not None and os.geteuid() == 0:
            info = os.fstat(fd)
            if not place.is_own_folder(info, Rights(record.uid, record.gid, mode)):
                raise StageFailed(
                    f"it belongs to {user_name(info.st_uid)} with the mode {stat.S_IMODE(info.st_mode):04o}, and "
                    f"{place.stranger} may have moved it there."
                )
            os.chown(itself, record.uid, record.gid)
        os.chmod(itself, mode)
    finally:
        os.close(fd)
