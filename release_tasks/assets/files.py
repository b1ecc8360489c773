"""Copy regular files to a snapshot and back: bytes, modes, holes. ``trees`` does the same for folders.

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

from attrs import define, evolve, field

from release_tasks.core.clock import awake
from release_tasks.core.errors import StageFailed, describe_error, with_path
from release_tasks.core.holes import data_ranges, most_data
from release_tasks.core.place import Place, drop_list
from release_tasks.core.records import AssetEntry, AssetRecord, Inode
from release_tasks.core.units import show_size

__all__ = [
    "MOST_HOLES",
    "NO_RESOURCES",
    "PRIVATE_FOLDER",
    "Count",
    "FileSource",
    "FileTarget",
    "Gaps",
    "Unreadable",
    "can_share_blocks",
    "capture_file",
    "copy_file",
    "count_holes",
    "keep_attributes",
    "keep_attributes_of_new_link",
    "keep_link_attributes",
    "place_content",
    "place_file",
    "place_link",
    "reading",
    "scan_file",
    "set_rights",
]

# Called with the number of bytes of each read; the number is negative when a file is read again from its start.
Count = Callable[[int], None]

_STEP_BYTES = 1 << 20
_ATTEMPTS = 5
_TOLERANT_ATTEMPTS = 2
_CLOCK_TICK = 0.01  # seconds: kernels before 6.13 count file times in ticks, of 10 ms at most
_LEASE_SECONDS = 2.0  # how long a file lease of another process is waited for (fcntl(2), F_SETLEASE)
_MAX_NAMES = 50
MOST_HOLES = 64 << 30  # bytes of holes in the files of one asset; the digest of so many zeros takes a minute
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the filesystem can
_PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
# Errors of this process or this machine: they say nothing about the entry that was to be read.
NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@define
class Gaps:
    """What a safety capture could not copy (``left_out``), and what it copied while it changed (``unstable``).

    At most 50 names of each are kept; ``left_out_count`` is the number of all that were left out. ``long_paths`` is the
    memory that the captured paths beyond PATH_MAX take, ``holes`` the size of the holes, in bytes.
    """

    left_out: list[str] = field(factory=list)
    left_out_count: int = 0
    unstable: list[str] = field(factory=list)
    long_paths: int = 0
    holes: int = 0

    def leave_out(self, path: str) -> None:
        """Record an entry that is not in the copy."""
        self.left_out_count += 1
        if len(self.left_out) < _MAX_NAMES:
            self.left_out.append(path)

    def note_unstable(self, path: str) -> None:
        """Record a file that was copied while it changed."""
        if len(self.unstable) < _MAX_NAMES:
            self.unstable.append(path)

    def on(self, record: AssetRecord) -> AssetRecord:
        """Return the record of the asset with these gaps."""
        count = self.left_out_count or None
        return evolve(record, left_out=self.left_out or None, left_out_count=count, unstable=self.unstable or None)


class Unreadable(StageFailed):
    """The original cannot be read, for the reason ``error``. Only a capture with ``gaps`` raises it."""

    def __init__(self, error: OSError | StageFailed) -> None:
        super().__init__(describe_error(error))
        self.error = error

    def to_raise(self, gaps: Gaps | None) -> OSError | StageFailed:
        """Return the exception to raise: a lack of resources says nothing about the original."""
        has_no_resources = isinstance(self.error, OSError) and self.error.errno in NO_RESOURCES
        return self.error if gaps is None or has_no_resources else self


@define
class FileSource:
    """A file to read: ``name`` in the folder ``dir_fd`` (None: a path), ``shown`` in messages.

    ``info`` is an earlier reading of its metadata, at the monotonic time ``seen``.
    """

    name: str
    shown: str
    relative: str
    dir_fd: int | None = None
    info: os.stat_result | None = None
    seen: float = 0.0


@define
class FileTarget:
    """A file to write: ``name`` in the folder ``dir_fd`` (None: a path).

    ``drops_list``: remove the access list that it gets from its folder; see ``Place.drop_inherited_list``.
    """

    name: str
    shown: str
    dir_fd: int | None = None
    mode: int = _PRIVATE_FILE
    drops_list: bool = False


def capture_file(source: Place, destination: Place, count: Count | None = None, gaps: Gaps | None = None) -> AssetEntry:
    """Copy one regular file to ``destination`` (0600), which must not exist, and return its entry; a link is refused.

    Raises StageFailed when the file changes during each of several reads. With ``gaps``, the bytes that it had at the
    start of a read are copied then, and the file is noted as unstable; raises Unreadable when it cannot be read.
    """
    try:
        return copy_file(_source(source), _target(destination), count, gaps)[0]
    except Unreadable as unreadable:
        raise unreadable.to_raise(gaps) from None


def scan_file(place: Place, count: Count | None = None) -> AssetEntry:
    """Return the entry of one regular file without copying it."""
    try:
        return copy_file(_source(place), None, count, None)[0]
    except Unreadable as unreadable:
        raise unreadable.error from None


def place_file(stored: Place, destination: Place, mode: int, count: Count | None = None) -> tuple[str, Inode]:
    """Copy a stored file to ``destination``, which must not exist, with ``mode`` and the stored owner and time.

    Returns its SHA-256 and its inode.
    """
    try:
        entry, inode = copy_file(_source(stored), _target(destination, mode), count, None)
    except Unreadable as unreadable:
        raise unreadable.error from None
    assert entry.sha256 is not None and inode is not None
    return entry.sha256, inode


def place_content(
    destination: Place, mode: int, info: os.stat_result, write: Callable[[int], str]
) -> tuple[str, Inode]:
    """Create ``destination``, which must not exist, with content that ``write`` writes to its descriptor.

    It gets ``mode``, and the owner and time of ``info``. Returns what ``write`` returns, a SHA-256, and its inode.
    Leaves no file when ``write`` raises StageFailed.
    """
    target = _target(destination, mode)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with with_path(target.shown):
        fd = os.open(target.name, flags, _PRIVATE_FILE, dir_fd=target.dir_fd)
        try:
            if target.drops_list:
                drop_list(fd)
            digest = write(fd)
            own = keep_attributes(fd, info, target.mode, target.shown)
            return digest, Inode(device=own.st_dev, number=own.st_ino)
        except StageFailed:
            os.unlink(target.name, dir_fd=target.dir_fd)
            raise
        finally:
            os.close(fd)


def place_link(target: str, path: Path | str, dir_fd: int | None = None) -> None:
    """Create the symbolic link ``path`` to ``target``; an OSError names the link instead of the target."""
    try:
        os.symlink(target, path, dir_fd=dir_fd)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def can_share_blocks(source: Place, folder: Path) -> bool:
    """Return whether a copy of ``source`` below ``folder`` can share its blocks and so needs no disk space.

    The copy has no name, so that nothing in ``folder`` changes. Raises StageFailed, OSError.
    """
    with contextlib.ExitStack() as opened:
        original = opened.enter_context(source.opened())
        try:
            # Without O_TMPFILE (macOS) the folder is opened for writing, which fails.
            copy = os.open(folder, getattr(os, "O_TMPFILE", 0) | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:  # a filesystem without files that have no name, or a full or read-only one
            return False
        opened.callback(os.close, copy)
        return _clone(original, copy)


def _source(place: Place) -> FileSource:
    return FileSource(place.at, str(place.path), place.path.name, place.folder)


def _target(place: Place, mode: int = _PRIVATE_FILE) -> FileTarget:
    drops_list = place.stranger is not None and os.geteuid() == 0
    return FileTarget(place.at, str(place.path), place.folder, mode, drops_list)


@contextlib.contextmanager
def reading(shown: str) -> Iterator[None]:
    """Raise Unreadable for an OSError of the block, which reads the original."""
    try:
        yield
    except OSError as error:
        error.filename = shown
        raise Unreadable(error) from error


def copy_file(
    source: FileSource, target: FileTarget | None, count: Count | None, gaps: Gaps | None
) -> tuple[AssetEntry, Inode | None]:
    """Read a regular file, again if it changed during the read, and copy it unless ``target`` is None.

    Returns the entry and the inode of the copy, a new file. Raises Unreadable when the original cannot be read, OSError
    when the copy cannot be written.
    """
    with reading(source.shown):
        fd = _open(source)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unreadable(StageFailed(f"{source.shown} is not a regular file."))
        if target is None:
            with reading(source.shown):
                return _copy_stable(source, fd, None, count, gaps)[0], None
        return _copy_to(source, fd, target, count, gaps)
    finally:
        os.close(fd)


def _copy_to(
    source: FileSource, fd: int, target: FileTarget, count: Count | None, gaps: Gaps | None
) -> tuple[AssetEntry, Inode]:
    writer: _Writer | None = None
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = _Writer(os.open(target.name, flags, _PRIVATE_FILE, dir_fd=target.dir_fd))
        if target.drops_list:
            drop_list(writer.fd)
        with reading(source.shown):
            entry, info = _copy_stable(source, fd, writer, count, gaps)
        own = keep_attributes(writer.fd, info, target.mode, target.shown)
        return entry, Inode(device=own.st_dev, number=own.st_ino)
    except Unreadable:
        os.unlink(target.name, dir_fd=target.dir_fd)
        raise
    except _NotWritten as failed:
        failed.error.filename = target.shown
        raise failed.error from None
    except OSError as error:
        error.filename = target.shown
        raise
    finally:
        if writer is not None:
            os.close(writer.fd)


def _open(source: FileSource) -> int:
    deadline = awake.now() + _LEASE_SECONDS
    while True:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(source.name, flags, dir_fd=source.dir_fd)
        except BlockingIOError:  # the holder of a lease was notified, and should release it
            if awake.now() >= deadline:
                message = f"{source.shown} cannot be read: another process holds a lease on it."
                raise Unreadable(StageFailed(message)) from None
            time.sleep(_CLOCK_TICK)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            message = f"{source.shown} is a symbolic link. Configure the path of its target instead."
            raise Unreadable(StageFailed(message)) from error


def _copy_stable(
    source: FileSource, fd: int, copy: _Writer | None, count: Count | None, gaps: Gaps | None
) -> tuple[AssetEntry, os.stat_result]:
    """Copy until the metadata shows that no write happened during a read; return the entry and that metadata.

    A second write in the tick of the first one does not change the time of a file. So a read counts only if it starts
    a tick after its time was seen, or after its time itself. The monotonic clock decides in the first case: the wall
    clock may have been put back, and a file server has a clock of its own.
    """
    attempts = _ATTEMPTS if gaps is None else _TOLERANT_ATTEMPTS
    seen, seen_at = source.info, source.seen
    for attempt in reversed(range(attempts)):
        before = os.fstat(fd)
        count_holes(source.shown, before, Gaps())
        if seen is None or _stamps(seen) != _stamps(before):
            seen, seen_at = before, time.monotonic()
        is_old = time.time_ns() - before.st_ctime_ns >= _CLOCK_TICK * 1e9
        if not is_old:
            time.sleep(max(seen_at + _CLOCK_TICK - time.monotonic(), 0.0))
        # A copy that shares blocks could differ from the bytes that were read, if the file changes meanwhile.
        may_share = attempt > 0 or gaps is None
        size, digest = _copy_once(fd, before, copy, count, may_share=may_share)
        after = os.fstat(fd)
        is_still = size == before.st_size and _stamps(seen) == _stamps(before) == _stamps(after)
        if is_still or (attempt == 0 and gaps is not None):
            if not is_still and gaps is not None:
                gaps.note_unstable(source.relative)
            mode = stat.S_IMODE(before.st_mode)
            size = min(size, before.st_size)
            return AssetEntry(path=source.relative, kind="file", mode=mode, size=size, sha256=digest), before
        if count is not None:
            count(-size)
    message = f"{source.shown} was not stable during any of {attempts} reads. "
    raise Unreadable(StageFailed(f"{message}Stop the program that writes it, and retry."))


def count_holes(shown: str, info: os.stat_result, counted: Gaps, limit: int = MOST_HOLES) -> None:
    """Add the holes of a file to those of ``counted``; raises Unreadable when they are more than ``limit`` bytes.

    A digest covers the zeros of a hole, so a file of a few bytes could be read for years.
    """
    holes = info.st_size - most_data(info)
    if counted.holes + holes > limit:
        raise Unreadable(StageFailed(f"{shown} is not read: it has a hole of {show_size(holes)}. Make it smaller."))
    counted.holes += holes


def _stamps(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _copy_once(
    fd: int, info: os.stat_result, copy: _Writer | None, count: Count | None, *, may_share: bool
) -> tuple[int, str]:
    """Copy at most the size that the file has at the start; return the size that was found, and the digest."""
    digest = hashlib.sha256()
    done = 0
    if copy is not None:
        copy.restart()
        if may_share and copy.share(fd, info.st_size):
            copy = None

    def add(chunk: bytes) -> None:
        nonlocal done
        digest.update(chunk)
        done += len(chunk)
        if count is not None:
            count(len(chunk))

    def add_hole(end: int) -> None:
        while done < end:
            add(bytes(min(_STEP_BYTES, end - done)))

    for start, end in data_ranges(fd, info):
        add_hole(start)
        os.lseek(fd, start, os.SEEK_SET)
        while done < end:
            chunk = os.read(fd, min(_STEP_BYTES, end - done))
            if not chunk:
                return done, digest.hexdigest()  # the file was cut meanwhile
            if copy is not None:
                copy.write(chunk, done)
            add(chunk)
    add_hole(info.st_size)
    if copy is not None:
        copy.end_at(done)
    os.lseek(fd, done, os.SEEK_SET)
    return done + len(os.read(fd, 1)), digest.hexdigest()


class _NotWritten(Exception):
    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Writer:
    """A new file that is written from its start, with holes. Raises _NotWritten for an OSError."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0  # bytes up to the end of the last write

    def restart(self) -> None:
        """Remove what was written. A file that was not written is not cut: ext4 would flush it when it is closed."""
        if self.size:
            self._try(lambda: os.ftruncate(self.fd, 0))
        self.size = 0

    def share(self, source: int, size: int) -> bool:
        """Share the blocks of another file of ``size`` bytes, where the filesystem can."""
        if not _clone(source, self.fd):
            return False
        self.size = size
        return True

    def write(self, chunk: bytes, offset: int) -> None:
        """Write at a position."""
        view = memoryview(chunk)
        while view:
            try:
                written = os.pwrite(self.fd, view, offset)
            except OSError as error:
                raise _NotWritten(error) from error
            view, offset = view[written:], offset + written
        self.size = offset

    def end_at(self, size: int) -> None:
        """Give the file its size, when it ends with a hole."""
        if self.size < size:
            self._try(lambda: os.ftruncate(self.fd, size))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            raise _NotWritten(error) from error


def _clone(source: int, target: int) -> bool:
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def keep_attributes(copy: int, info: os.stat_result, mode: int, shown: str) -> os.stat_result:
    """Give the file or folder ``copy`` the mode, and the owner (where permitted) and times of its original.

    Returns the earlier result of fstat. An OSError names the path ``shown``.
    """
    own = os.fstat(copy)
    with with_path(shown):
        set_rights(copy, own, (info.st_uid, info.st_gid), mode)
    with contextlib.suppress(OSError):
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
    return own


def set_rights(fd: int, own: os.stat_result, owner: tuple[int, int] | None, mode: int) -> bool:
    """Give an open file user and group, where permitted, and the mode; return whether it had others. Raises OSError.

    ``own`` is its result of fstat; it decides whether there is anything to change: in a folder with the setgid bit, a
    new file has the group of the folder, not that of the process. The setuid bit is set only with the user ``owner``,
    and the setgid bit only with its group. Without an ``owner``, the file keeps its own, and root sets neither bit.
    """
    if owner is None:
        owner = _owner(own)
        mode &= ~(stat.S_ISUID | stat.S_ISGID if os.geteuid() == 0 else 0)
    has_owner = _owner(own) == owner
    if has_owner and stat.S_IMODE(own.st_mode) == mode:
        return False
    if not has_owner:
        _give_owner(owner, lambda uid, gid: os.fchown(fd, uid, gid))
        given = os.fstat(fd)
        mode &= ~(stat.S_ISUID if given.st_uid != owner[0] else 0)
        mode &= ~(stat.S_ISGID if given.st_gid != owner[1] else 0)
    os.fchmod(fd, mode)  # also after a change of the owner, which clears setuid and setgid bits
    return True


def keep_link_attributes(info: os.stat_result, name: str, folder: int) -> None:
    """Give the link ``name`` in ``folder`` the owner, where permitted, and the times of its original."""
    own = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if _owner(own) != _owner(info):
        _give_owner(_owner(info), lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False))
    with contextlib.suppress(OSError):
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=folder, follow_symlinks=False)


def keep_attributes_of_new_link(info: os.stat_result, name: str, folder: int) -> None:
    """Do the same for a link that root has just made in a folder of another user. Raises StageFailed, OSError.

    That user can put a file of root in the place of the link, so the link is opened first.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            raise StageFailed(f"{name} was exchanged by another process while it was created. Try again.")
        itself = f"/proc/self/fd/{fd}"  # the link, not its target
        _give_owner(_owner(info), lambda uid, gid: os.chown(itself, uid, gid))
        with contextlib.suppress(OSError):
            os.utime(itself, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(fd)


def _give_owner(owner: tuple[int, int], change: Callable[[int, int], None]) -> None:
    """Change the owner; without the right to do that, the group alone."""
    try:
        change(*owner)
    except OSError:
        with contextlib.suppress(OSError):
            change(-1, owner[1])


def _owner(info: os.stat_result) -> tuple[int, int]:
    return info.st_uid, info.st_gid
