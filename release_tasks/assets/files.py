"""Copy files and folders to a snapshot and back: bytes, modes, links as links, empty folders.

The copies have the owner and the modification time of the originals where the system permits; no digest covers them.
Hard links, extended attributes and ACLs are not preserved.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.codec import encode
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.records import AssetEntry

__all__ = [
    "can_share_blocks",
    "capture_file",
    "capture_tree",
    "entries_digest",
    "keep_owner_and_time",
    "place_file",
    "place_link",
    "place_tree",
    "scan_file",
    "scan_tree",
    "tree_size",
]

# Called with the number of bytes of each read; the number is negative when a file is read again from its start.
Count = Callable[[int], None]

_STEP_BYTES = 1 << 20
_ATTEMPTS = 5
_CLOCK_TICK_NS = 10_000_000
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the filesystem can


def capture_file(
    source: Path, destination: Path, count: Count | None = None, *, must_be_stable: bool = True
) -> AssetEntry:
    """Copy one regular file to ``destination`` (0600) and return its entry; a link is refused.

    Raises StageFailed when the file changes during each of several reads, unless ``must_be_stable`` is False.
    """
    entry = _copy_stable(source.name, source, destination, count=count, must_be_stable=must_be_stable)
    keep_owner_and_time(os.lstat(source), destination)
    return entry


def capture_tree(
    source: Path,
    destination: Path,
    left_out: list[str] | None = None,
    count: Count | None = None,
    *,
    must_be_stable: bool = True,
) -> list[AssetEntry]:
    """Copy the folder ``source`` to ``destination`` (0700/0600 inside) and return its entries, sorted by path.

    Links are copied as links and never followed. Raises StageFailed as ``capture_file`` does, and for sockets, pipes
    and devices, unless there is a list ``left_out``, which then gets their paths.
    """
    os.mkdir(destination, 0o700)
    return _read_tree(source, destination, left_out, count, must_be_stable=must_be_stable)


def scan_file(path: Path, count: Count | None = None) -> AssetEntry:
    """Return the entry of one regular file without copying it."""
    return _copy_stable(path.name, path, None, count=count)


def scan_tree(root: Path, count: Count | None = None) -> list[AssetEntry]:
    """Return the entries of the folder ``root`` without copying it; ``capture_tree`` returns the same entries."""
    return _read_tree(root, None, None, count)


def _read_tree(
    source: Path,
    destination: Path | None,
    left_out: list[str] | None,
    count: Count | None,
    *,
    must_be_stable: bool = True,
) -> list[AssetEntry]:
    """Return the entries of ``source``, sorted by path; they are copied unless ``destination`` is None."""
    entries: list[AssetEntry] = []
    folders = [(os.lstat(source), destination)]
    for relative, info, fd in _walk(source, left_out):
        path = source / relative
        copy = None if destination is None else destination / relative
        if stat.S_ISDIR(info.st_mode):
            entries.append(AssetEntry(path=relative, kind="directory", mode=stat.S_IMODE(info.st_mode)))
            folders.append((info, copy))
            if copy is not None:
                os.mkdir(copy, 0o700)
        elif stat.S_ISLNK(info.st_mode):
            with with_path(path):
                target = os.readlink(path.name, dir_fd=fd)
            # A link's own mode means nothing on Linux and differs between systems.
            entries.append(AssetEntry(path=relative, kind="symlink", mode=0o777, target=target))
            if copy is not None:
                place_link(target, copy)
        else:
            try:
                entry = _copy_stable(relative, path, copy, dir_fd=fd, count=count, must_be_stable=must_be_stable)
            except FileNotFoundError:
                if copy is None:
                    raise
                continue  # removed after its folder was listed
            entries.append(entry)
            if copy is not None:
                keep_owner_and_time(info, copy)
    for info, copy in reversed(folders):
        if copy is not None:
            keep_owner_and_time(info, copy)
    return sorted(entries, key=lambda entry: entry.path)


def tree_size(root: Path) -> int:
    """Return the size of the files below ``root``; files that cannot be read count as 0."""
    size = 0
    with contextlib.suppress(OSError):
        for _, _, files, fd in os.fwalk(root, follow_symlinks=False):
            for name in files:
                with contextlib.suppress(OSError):
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    size += info.st_size if stat.S_ISREG(info.st_mode) else 0
    return size


def place_file(stored: Path, destination: Path, mode: int, count: Count | None = None) -> str:
    """Copy a stored file to ``destination`` with ``mode`` and the stored owner and time; return its SHA-256."""
    entry = _copy_stable(stored.name, stored, destination, count=count)
    keep_owner_and_time(os.lstat(stored), destination)
    os.chmod(destination, mode)
    assert entry.sha256 is not None
    return entry.sha256


def place_tree(
    stored: Path, destination: Path, entries: list[AssetEntry], mode: int, count: Count | None = None
) -> None:
    """Copy a stored folder to ``destination`` as recorded in ``entries``; raises StageFailed when bytes differ."""
    os.mkdir(destination, 0o700)
    folders = [(stored, destination, mode)]
    for entry in sorted(entries, key=lambda entry: entry.path):
        source, copy = stored / entry.path, destination / entry.path
        if entry.kind == "directory":
            os.mkdir(copy, 0o700)
            folders.append((source, copy, entry.mode))
        elif entry.kind == "symlink":
            assert entry.target is not None
            place_link(entry.target, copy)
            keep_owner_and_time(os.lstat(source), copy)
        elif place_file(source, copy, entry.mode, count) != entry.sha256:
            raise StageFailed(f"{source} changed while it was restored.")
    for source, copy, folder_mode in reversed(folders):
        keep_owner_and_time(os.lstat(source), copy)
        os.chmod(copy, folder_mode)


def place_link(target: str, path: Path) -> None:
    """Create the symbolic link ``path`` to ``target``; an OSError names the link instead of the target."""
    try:
        os.symlink(target, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def can_share_blocks(source: Path, folder: Path) -> bool:
    """Return whether a copy of ``source`` below ``folder`` can share its blocks and so needs no disk space.

    The copy has no name, so that nothing in ``folder`` changes.
    """
    with contextlib.ExitStack() as opened:
        original = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        opened.callback(os.close, original)
        try:
            # Without O_TMPFILE (macOS) the folder is opened for writing, which fails.
            copy = os.open(folder, getattr(os, "O_TMPFILE", 0) | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:  # a filesystem without files that have no name, or a full or read-only one
            return False
        opened.callback(os.close, copy)
        return _clone(original, copy)


def entries_digest(entries: list[AssetEntry]) -> str:
    """Return the SHA-256 over the canonical form of a folder's entries."""
    return sha256_bytes(canonical_bytes([encode(entry) for entry in entries]))


def _walk(root: Path, left_out: list[str] | None = None) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield (path relative to root, lstat, descriptor of its folder), parents first, names in order.

    Uses descriptors instead of paths, so that a folder that is replaced by a link during the walk is not followed.
    """

    def raise_error(error: OSError) -> None:
        raise error

    with with_path(root):
        for folder, subfolders, files, fd in os.fwalk(root, onerror=raise_error, follow_symlinks=False):
            subfolders.sort()
            inside = os.path.relpath(folder, root)
            for name in sorted(subfolders + files):
                relative = name if inside == "." else f"{inside}/{name}"
                try:
                    with with_path(root / relative):
                        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                form = stat.S_IFMT(info.st_mode)
                if form in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    yield relative, info, fd
                elif left_out is not None:
                    left_out.append(relative)
                else:
                    kind = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "named pipe"}.get(form, "device")
                    raise StageFailed(f"{root / relative} is a {kind}: only files, folders and links can be captured.")


def _copy_stable(
    relative: str,
    path: Path,
    copy: Path | None,
    *,
    dir_fd: int | None = None,
    count: Count | None = None,
    must_be_stable: bool = True,
) -> AssetEntry:
    """Read a regular file, again if it changed during the read, and copy it unless ``copy`` is None.

    ``dir_fd`` is the descriptor of the file's folder; with it, only the file's name is looked up.
    """
    name = path if dir_fd is None else path.name
    for attempt in reversed(range(_ATTEMPTS)):
        try:
            with with_path(path):
                source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StageFailed(f"{path} is a symbolic link. Configure the path of its target instead.") from error
            raise
        try:
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                raise StageFailed(f"{path} is not a regular file.")
            size, digest = _copy_once(source, path, copy, count)
            after = os.fstat(source)
        finally:
            os.close(source)
        stamps = before.st_size, before.st_mtime_ns, before.st_ctime_ns
        is_unchanged = stamps == (size, after.st_mtime_ns, after.st_ctime_ns)
        # Older kernels count file times in clock ticks: a second write in the same tick does not change the time.
        is_certain = is_unchanged and time.time_ns() - after.st_ctime_ns >= _CLOCK_TICK_NS
        if is_certain or (attempt == 0 and not must_be_stable):
            mode = stat.S_IMODE(before.st_mode)
            return AssetEntry(path=relative, kind="file", mode=mode, size=size, sha256=digest)
        if is_unchanged:
            time.sleep(_CLOCK_TICK_NS / 1e9)
        if count is not None:
            count(-size)
    raise StageFailed(
        f"{path} was not stable during any of {_ATTEMPTS} reads. Stop the program that writes it, and retry."
    )


def _copy_once(source: int, path: Path, copy: Path | None, count: Count | None) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    target = -1
    if copy is not None:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        is_cloned = target >= 0 and _clone(source, target)
        while chunk := _read(source, path):
            digest.update(chunk)
            size += len(chunk)
            if copy is not None and not is_cloned:
                _write(target, chunk, copy)
            if count is not None:
                count(len(chunk))
    finally:
        if target >= 0:
            os.close(target)
    return size, digest.hexdigest()


def _read(fd: int, path: Path) -> bytes:
    with with_path(path):
        return os.read(fd, _STEP_BYTES)


def _write(fd: int, chunk: bytes, path: Path) -> None:
    view = memoryview(chunk)
    with with_path(path):
        while view:
            view = view[os.write(fd, view) :]


def _clone(source: int, target: int) -> bool:
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def keep_owner_and_time(info: os.stat_result, copy: Path) -> None:
    """Give a copy the owner (where permitted) and the times of its original, whose stat result is ``info``."""
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):  # only root may change the owner of a file
            os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)
    with contextlib.suppress(OSError):
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
