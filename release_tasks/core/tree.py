"""Walk folder trees by descriptors, one name at a time, below a root that was opened once.

The system never gets a path of more than one name. So neither depth nor PATH_MAX (4096 bytes) limits a tree, and a
folder that is replaced by a link meanwhile is not followed. Only the deepest folders stay open; a folder above them is
opened again through ``..`` and must be the same inode as before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from attrs import define

__all__ = ["Entry", "Missed", "Tree", "refuse", "walk"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN = 32  # descriptors of one tree, besides its root
_BATCH = 256  # names that are examined before the first of them is used

# Called with the path relative to the root and the error of an entry that cannot be reached; returns to leave it out.
Missed = Callable[[str, OSError], None]


@define
class _Level:
    name: str
    fd: int  # -1 while the folder is closed
    identity: tuple[int, int]  # device and inode number


@define
class Entry:
    """One name in a tree: ``path`` is relative to the root (empty for the root), ``folder`` the descriptor it is in.

    A folder comes twice: before its content and, with ``is_end``, after it; ``fd`` is its own descriptor, else -1.
    ``path`` is set while the entry is the current one: a walk must not keep the paths of all folders above it.
    ``seen`` is the monotonic time in seconds before ``info`` was read. Set ``is_skipped`` to pass over its content.
    """

    path: str
    name: str
    info: os.stat_result
    folder: int
    fd: int
    seen: float
    is_end: bool = False
    is_skipped: bool = False


class Tree:
    """A position in a tree. ``fd`` is the descriptor of the current folder, and ``path`` its path below the root.

    With ``dir_fd``, ``root`` is a name in that folder, and ``shown`` its path. Every OSError names the full path.
    """

    def __init__(
        self, root: Path, dir_fd: int | None = None, *, shown: Path | None = None, force: bool = False
    ) -> None:
        self.root = shown or root
        self.path = ""
        self._levels = [_open("", root, dir_fd, str(self.root), force=force)]

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        for level in self._levels:
            if level.fd >= 0:
                os.close(level.fd)

    @property
    def fd(self) -> int:
        """The descriptor of the current folder; -1 when the folder was moved away and could not be opened again."""
        return self._levels[-1].fd

    def below(self, name: str) -> str:
        """Return the path of a name in the current folder, relative to the root."""
        return f"{self.path}/{name}" if self.path else name

    def shown(self, name: str) -> str:
        """Return the full path of a name in the current folder, for messages."""
        return f"{self.location}/{name}"

    @property
    def location(self) -> str:
        """The full path of the current folder, for messages."""
        return f"{self.root}/{self.path}" if self.path else str(self.root)

    def enter(self, name: str, *, force: bool = False) -> None:
        """Go to a folder in the current folder; with ``force``, first give its owner the right to use it."""
        self._levels.append(_open(name, name, self.fd, self.shown(name), force=force))
        self.path = self.below(name)
        above = len(self._levels) - 1 - _MAX_OPEN
        if above > 0 and self._levels[above].fd >= 0:
            os.close(self._levels[above].fd)
            self._levels[above].fd = -1

    def parent(self) -> int:
        """Return the descriptor of the parent folder. Raises OSError (ESTALE) when it was moved meanwhile."""
        level, current = self._levels[-2], self._levels[-1]
        if level.fd < 0:
            level.fd = self._reopened(len(self._levels) - 2, current.fd)
        return level.fd

    def leave(self) -> None:
        """Go to the parent folder. After an OSError the parent is the current folder, but has no descriptor."""
        try:
            self.parent()
        finally:
            level = self._levels.pop()
            if level.fd >= 0:
                os.close(level.fd)
            self.path = self.path[: max(len(self.path) - len(level.name) - 1, 0)]

    def go(self, path: str, *, force: bool = False) -> None:
        """Go to the folder ``path``, relative to the root."""
        while self.path and path != self.path and not path.startswith(f"{self.path}/"):
            self.leave()
        rest = path[len(self.path) :].strip("/")
        for name in rest.split("/") if rest else ():
            if name in ("", ".", ".."):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"{self.root}/{path}")
            self.enter(name, force=force)

    def _reopened(self, number: int, below: int) -> int:
        """Open a closed folder again: through ``..`` of the folder below it, else by the names from the root."""
        if below >= 0:
            with contextlib.suppress(OSError):
                if (fd := self._same("..", below, self._levels[number])) >= 0:
                    return fd
        fd = os.dup(self._levels[0].fd)
        for level in self._levels[1 : number + 1]:
            inner = -1
            try:
                with contextlib.suppress(OSError):
                    inner = self._same(level.name, fd, level)
            finally:
                os.close(fd)
            if inner < 0:
                raise OSError(errno.ESTALE, "The folder was moved while it was in use", f"{self.root}/{self.path}")
            fd = inner
        return fd

    def _same(self, name: str, folder: int, level: _Level) -> int:
        """Open a name and return its descriptor, or -1 when it is another folder than ``level``."""
        fd = os.open(name, _FOLDER, dir_fd=folder)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) == level.identity:
            return fd
        os.close(fd)
        return -1


def refuse(path: str, error: OSError) -> None:
    """Raise the error, unless the entry was removed after its folder was listed: then leave the entry out."""
    if not isinstance(error, FileNotFoundError):
        raise error


def walk(
    root: Path,
    missed: Missed = refuse,
    dir_fd: int | None = None,
    *,
    shown: Path | None = None,
    force: bool = False,
) -> Iterator[Entry]:
    """Yield every entry at and below the folder ``root``: parents first, the names of a folder in order.

    ``missed`` decides about entries that cannot be reached; an error at the root is raised. ``force`` is as in
    ``Tree.enter``, the rest as in ``Tree``. The tree may change during the walk.
    """
    with Tree(root, dir_fd, shown=shown, force=force) as tree:
        opened = [Entry("", "", os.fstat(tree.fd), -1, tree.fd, time.monotonic())]
        yield opened[0]
        pending = [_names(tree, missed)]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                yield _end(tree, opened.pop(), missed)
                if pending:
                    with contextlib.suppress(OSError):  # ``_end`` has reported it
                        tree.leave()
            elif not stat.S_ISDIR(entry.info.st_mode):
                yield entry
            else:
                try:
                    tree.enter(entry.name, force=force)
                except OSError as error:
                    missed(entry.path, error)
                    continue
                entry.fd, entry.info = tree.fd, os.fstat(tree.fd)
                yield entry
                entry.path = ""
                if entry.is_skipped:
                    tree.leave()
                else:
                    opened.append(entry)
                    pending.append(_names(tree, missed))


def _end(tree: Tree, entry: Entry, missed: Missed) -> Entry:
    entry.path, entry.is_end, entry.fd, entry.folder = tree.path, True, tree.fd, -1
    if entry.path:
        try:
            entry.folder = tree.parent()
        except OSError as error:
            missed(entry.path, error)
    return entry


def _names(tree: Tree, missed: Missed) -> Iterator[Entry]:
    """Yield the entries of the current folder; the walk is back in that folder for each of them."""
    try:
        names = sorted(os.listdir(tree.fd))
    except OSError as error:
        error.filename = f"{tree.root}/{tree.path}"
        missed(tree.path, error)
        return
    for start in range(0, len(names), _BATCH):
        seen, batch = time.monotonic(), []
        for name in names[start : start + _BATCH]:
            try:
                batch.append(Entry("", name, _lstat(name, tree), -1, -1, seen))
            except OSError as error:
                missed(tree.below(name), error)
        for entry in batch:
            entry.path = tree.below(entry.name)
            entry.folder = tree.fd  # another descriptor when the folder was closed meanwhile
            yield entry


def _lstat(name: str, tree: Tree) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=tree.fd, follow_symlinks=False)
    except OSError as error:
        error.filename = tree.shown(name)
        raise


def _open(name: str, path: Path | str, folder: int | None, shown: str, *, force: bool) -> _Level:
    try:
        try:
            fd = os.open(path, _FOLDER, dir_fd=folder)
        except PermissionError:
            if not force:
                raise
            _unlock(path, folder)
            fd = os.open(path, _FOLDER, dir_fd=folder)
    except OSError as error:
        error.filename = shown
        raise
    info = os.fstat(fd)
    return _Level(name, fd, (info.st_dev, info.st_ino))


def _unlock(path: Path | str, folder: int | None) -> None:
    """Give the owner of a folder every right; through /proc, because chmod would follow a link."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
