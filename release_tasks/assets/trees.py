"""Copy folders to a snapshot and back, with the links and empty folders in them. Links are never followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from release_tasks.assets.files import (
    MOST_HOLES,
    NO_RESOURCES,
    PRIVATE_FOLDER,
    Count,
    FileSource,
    FileTarget,
    Gaps,
    Unreadable,
    copy_file,
    count_holes,
    keep_attributes,
    keep_attributes_of_new_link,
    keep_link_attributes,
    place_link,
    reading,
)
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.holes import most_data
from release_tasks.core.place import HALF_MADE, Place
from release_tasks.core.records import AssetEntry, Inode
from release_tasks.core.tree import Entry, Tree

__all__ = [
    "HALF_MADE",
    "TreeContent",
    "capture_tree",
    "dfs_order",
    "place_entry",
    "place_tree",
    "scan_tree",
    "tree_size",
]

# Names that the disk of the copy cannot have, although the disk of the original has them.
_NO_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_PATH_MAX = 4096  # bytes (linux/limits.h); only walks by descriptors make longer paths
_MAX_LONG_PATHS = 64 << 20  # bytes of memory: each entry of a deep tree has the names of all folders above it


@frozen
class TreeContent:
    """The mode of a folder and its entries, sorted by path."""

    mode: int
    entries: list[AssetEntry]


def capture_tree(
    source: Place, destination: Place, gaps: Gaps | None = None, count: Count | None = None
) -> TreeContent:
    """Copy the folder ``source`` to ``destination`` (0700/0600 inside), which must not exist, and return its content.

    Links are copied as links and never followed. Files and folders that vanish meanwhile are not in the copy. Raises
    StageFailed as ``capture_file`` does, for sockets, pipes and devices, and for a tree so deep that its paths would
    fill the memory. With ``gaps``, the copy contains what can be copied, and ``gaps`` names the rest; raises Unreadable
    when ``source`` itself cannot be opened.
    """
    with destination.new_tree() as copy:
        return _read_tree(source, copy, gaps, count)


def scan_tree(root: Place, count: Count | None = None) -> TreeContent:
    """Return the content of the folder ``root`` without copying it; ``capture_tree`` returns the same."""
    return _read_tree(root, None, None, count)


def tree_size(root: Place) -> int:
    """Return the size of the data below ``root``; files that cannot be read count as 0."""
    size = 0
    with contextlib.suppress(OSError):
        for entry in root.walk(lambda path, error: None):
            if stat.S_ISREG(entry.info.st_mode):
                size += most_data(entry.info)
    return size


def place_tree(
    stored: Path, destination: Place, entries: Iterable[AssetEntry], mode: int, count: Count | None = None
) -> Inode:
    """Copy a stored folder to ``destination``, which must not exist, as recorded in ``entries``; return its inode.

    Only the user of this process can use the new folder until it is complete. Raises StageFailed when bytes differ.
    """
    folders = [("", mode)]
    with Tree(stored) as source, destination.new_tree(HALF_MADE) as copy:
        for entry in sorted(entries, key=dfs_order):
            folder, _, name = entry.path.rpartition("/")
            source.go(folder)
            copy.go(folder)
            if entry.kind == "directory":
                with with_path(copy.shown(name)):
                    os.mkdir(name, PRIVATE_FOLDER, dir_fd=copy.fd)
                folders.append((entry.path, entry.mode))
            else:
                place_entry(entry, name, source, copy, count)
        for path, folder_mode in reversed(folders):
            source.go(path)
            copy.go(path)
            own = keep_attributes(copy.fd, os.fstat(source.fd), folder_mode, copy.location)
        return Inode(device=own.st_dev, number=own.st_ino)  # the folder itself comes last


def place_entry(
    entry: AssetEntry, name: str, source: Tree, copy: Tree, count: Count | None = None, *, is_foreign: bool = False
) -> None:
    """Copy the file or link ``entry`` from the folder ``source`` to ``name`` in the folder ``copy``.

    ``is_foreign``: this is a run as root, and another user can exchange names in the folder, and set its access list.
    Raises StageFailed when the stored bytes are not as recorded.
    """
    stored = entry.path.rpartition("/")[2]
    if entry.kind == "symlink":
        assert entry.target is not None
        with with_path(source.shown(stored)):
            info = os.stat(stored, dir_fd=source.fd, follow_symlinks=False)
        with with_path(copy.shown(name)):
            place_link(entry.target, name, copy.fd)
            (keep_attributes_of_new_link if is_foreign else keep_link_attributes)(info, name, copy.fd)
        return
    file = FileSource(stored, source.shown(stored), entry.path, source.fd)
    try:
        target = FileTarget(name, copy.shown(name), copy.fd, entry.mode, is_foreign)
        placed, _ = copy_file(file, target, count, None)
    except Unreadable as unreadable:
        raise unreadable.error from None
    if placed.sha256 != entry.sha256:
        raise StageFailed(f"{file.shown} changed while it was restored.")


def dfs_order(entry: AssetEntry) -> str:
    """Return the sort key in which a folder is followed by its content: by path, "a-b" is between "a" and "a/b"."""
    return entry.path.replace("/", "\0")


def _read_tree(source: Place, copy: Tree | None, gaps: Gaps | None, count: Count | None) -> TreeContent:
    """Return the content of ``source``; it is copied unless ``copy`` is None."""
    entries: list[AssetEntry] = []

    def missed(path: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # removed after its folder was listed
        if gaps is None or error.errno in NO_RESOURCES:
            raise error
        gaps.leave_out(path)

    # A scan may have a folder more in each path than the capture that it is compared with.
    counted, scale = gaps or Gaps(), 2 if copy is None else 1
    around = set() if copy is None else _folders_around(copy.root)
    walked, shown = source.walk(missed), source.path
    try:
        with reading(str(shown)):
            top = next(walked).info
    except Unreadable as unreadable:
        raise unreadable.to_raise(gaps) from None
    for entry in walked:
        if (entry.info.st_dev, entry.info.st_ino) in around:
            raise StageFailed(
                f"{shown}/{entry.path} is the folder of the snapshots or contains it, by a mount or because it was "
                "moved: it cannot be copied into itself. Take it out of the asset."
            )
        if entry.is_end:
            if copy is not None:
                keep_attributes(copy.fd, entry.info, PRIVATE_FOLDER, copy.location)
                if entry.path:
                    copy.leave()
            continue
        try:
            if len(entry.path) > _PATH_MAX:
                _count_long_path(shown, entry, counted, _MAX_LONG_PATHS * scale)
            if stat.S_ISREG(entry.info.st_mode):
                count_holes(f"{shown}/{entry.path}", entry.info, counted, MOST_HOLES * scale)
            entries.append(_read_entry(shown, entry, copy, gaps, count))
        except Unreadable as unreadable:
            if isinstance(unreadable.error, FileNotFoundError) and copy is not None:
                continue
            error = unreadable.to_raise(gaps)
            if gaps is None or error is unreadable.error:
                raise error from None
            gaps.leave_out(entry.path)
            entry.is_skipped = True
    return TreeContent(stat.S_IMODE(top.st_mode), sorted(entries, key=lambda entry: entry.path))


def _read_entry(source: Path, entry: Entry, copy: Tree | None, gaps: Gaps | None, count: Count | None) -> AssetEntry:
    """Copy one entry; raises Unreadable when it cannot be read, or when no copy can have its name."""
    info, shown = entry.info, f"{source}/{entry.path}"
    try:
        if stat.S_ISREG(info.st_mode):
            source_file = FileSource(entry.name, shown, entry.path, entry.folder, info, entry.seen)
            target_file = None if copy is None else FileTarget(entry.name, copy.shown(entry.name), copy.fd)
            return copy_file(source_file, target_file, count, gaps)[0]
        if stat.S_ISDIR(info.st_mode):
            if copy is not None:
                os.mkdir(entry.name, PRIVATE_FOLDER, dir_fd=copy.fd)
                copy.enter(entry.name)
            return AssetEntry(path=entry.path, kind="directory", mode=stat.S_IMODE(info.st_mode))
        if stat.S_ISLNK(info.st_mode):
            with reading(shown):
                target = os.readlink(entry.name, dir_fd=entry.folder)
            if copy is not None:
                place_link(target, entry.name, copy.fd)
                keep_link_attributes(info, entry.name, copy.fd)
            # A link's own mode means nothing on Linux and differs between systems.
            return AssetEntry(path=entry.path, kind="symlink", mode=0o777, target=target)
    except OSError as error:
        if copy is not None:
            error.filename = copy.shown(entry.name)
        if error.errno in _NO_NAME:
            raise Unreadable(error) from error
        raise
    kind = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "named pipe"}.get(stat.S_IFMT(info.st_mode), "device")
    raise Unreadable(StageFailed(f"{shown} is a {kind}: only files, folders and links can be captured."))


def _count_long_path(source: Path, entry: Entry, counted: Gaps, limit: int) -> None:
    counted.long_paths += (size := sys.getsizeof(entry.path))
    if counted.long_paths > limit:
        counted.long_paths -= size
        message = f"{source} has too many folders inside each other: the paths in it would fill the memory."
        raise Unreadable(StageFailed(f"{message} They begin with {excerpt_line(entry.path)}"))


def _folders_around(copy: Path) -> set[tuple[int, int]]:
    """Return device and inode of every folder that contains ``copy``."""
    infos = [os.stat(folder) for folder in Path(os.path.realpath(copy)).parents]
    return {(info.st_dev, info.st_ino) for info in infos}
