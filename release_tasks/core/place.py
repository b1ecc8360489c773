"""A name in a folder that is held open: state is reached by descriptors, never twice by a path.

The folders of a service belong to the user of the service, and the commands here often run as root. Between two
look-ups of one path that user can put a link, or another folder, in the place of any folder in the path. ``find``
therefore looks a path up once, name by name, and holds the last folder open. Each call after that gets the descriptor
of that folder and one name, and follows no link there. What happens to the path meanwhile has no effect.

As root, a link in the path is followed only if root alone can have put it there: it decides where a restore writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.durable import exchange, fsync_directory, fsync_file, fsync_tree, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.flags import protecting_flag
from release_tasks.core.tree import Entry, Missed, Tree, refuse, walk
from release_tasks.core.typed import quoted
from release_tasks.core.users import user_name

__all__ = ["Place", "find", "found", "trusted"]

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC  # macOS has no O_PATH
_MAX_LINKS = 40  # the limit of Linux (path_resolution(7))
# Errors of a path that names nothing: a folder above it is missing, is a file, or is in a loop of links.
_NAMES_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@frozen
class Place:
    """The last name of ``path`` in the folder with the descriptor ``folder``.

    ``folder`` is None for a place that only this user can change, in a snapshot for instance: there the path itself is
    used. ``stranger`` names who else may put another file or folder in this place, or in the place of a folder above
    it: None if root alone may, and for other users than root. Valid inside the block of ``find`` or ``found`` only.
    """

    path: Path
    folder: int | None = None
    stranger: str | None = None

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path.name

    @property
    def at(self) -> str:
        """The path for a system call with the descriptor ``folder``: one name."""
        return str(self.path) if self.folder is None else self.path.name

    def sibling(self, name: str) -> Place:
        """Return the place of another name in the same folder."""
        return evolve(self, path=self.path.with_name(name))

    @property
    def reference(self) -> str:
        """A path of this place for code that takes no descriptors.

        For root it leads through the descriptor of the folder that is held open. It does not protect the last name: the
        reader must follow no link.
        """
        if self.folder is None or os.geteuid() != 0 or not os.path.isdir("/proc/self/fd"):
            return str(self.path)
        return f"/proc/self/fd/{self.folder}/{self.name}"

    # Looks

    def info(self) -> os.stat_result:
        """Return the result of lstat. Raises OSError."""
        with with_path(self.path):
            return os.stat(self.at, dir_fd=self.folder, follow_symlinks=False)

    def look(self) -> os.stat_result | None:
        """Return the result of lstat, or None when there is nothing. Raises OSError, for instance for EACCES."""
        try:
            return self.info()
        except OSError as error:
            if error.errno in _NAMES_NOTHING:
                return None
            raise

    def exists(self) -> bool:
        """Return whether there is anything at this place, a link for instance. Raises OSError."""
        return self.look() is not None

    def is_folder(self) -> bool:
        """Return whether there is a folder, and no link to one. Raises OSError."""
        info = self.look()
        return info is not None and stat.S_ISDIR(info.st_mode)

    def folder_info(self) -> os.stat_result:
        """Return the result of fstat of the folder. Raises OSError."""
        return os.stat(self.path.parent) if self.folder is None else os.fstat(self.folder)

    def name_limit(self) -> int:
        """Return the bytes that a name in the folder may have. Raises OSError."""
        return os.pathconf(self.path.parent if self.folder is None else self.folder, "PC_NAME_MAX")

    def names(self) -> list[str]:
        """Return the sorted names in the folder. Raises OSError."""
        fd = self._open_folder()
        try:
            with with_path(self.path.parent):
                return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def read_link(self) -> str:
        """Return the target of the link. Raises OSError."""
        with with_path(self.path):
            return os.readlink(self.at, dir_fd=self.folder)

    def flag(self) -> str | None:
        """Return the letter of the flag that forbids to replace the file or folder; see ``protecting_flag``."""
        return protecting_flag(Path(self.at), self.folder)

    def tree(self, *, force: bool = False) -> Tree:
        """Open the folder at this place; see ``Tree``. Raises OSError."""
        return Tree(Path(self.at), self.folder, shown=self.path, force=force)

    def walk(self, missed: Missed = refuse, *, force: bool = False) -> Iterator[Entry]:
        """Yield every entry at and below the folder at this place; see ``core.tree.walk``."""
        return walk(Path(self.at), missed, self.folder, shown=self.path, force=force)

    def open(self, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open a file without following a link and without waiting for the other end of a pipe. Raises OSError."""
        with with_path(self.path):
            return os.open(self.at, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=self.folder)

    @contextlib.contextmanager
    def opened(self, flags: int = os.O_RDONLY) -> Iterator[int]:
        """Open a regular file and yield its descriptor. Raises StageFailed for another type, OSError."""
        fd = self.open(flags)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StageFailed(f"{self.path} is not a regular file.")
            yield fd
        finally:
            os.close(fd)

    # Changes

    def require_writable(self, fd: int) -> None:
        """Raise StageFailed when a write to the open file ``fd`` could reach a file of another user.

        The owner of the folder can give a name in it to a file of another user (link(2), without the kernel's
        fs.protected_hardlinks). A file of the owner of the folder is no such file, and neither is one with one name.
        """
        if os.geteuid() != 0 or self.stranger is None:
            return
        info, folder, named = os.fstat(fd), self.folder_info(), self.look()
        is_of_folder = info.st_uid == folder.st_uid and folder.st_uid != 0
        has_one_name = info.st_nlink == 1 and named is not None and os.path.samestat(info, named)
        if not (is_of_folder or (has_one_name and named is not None and named.st_nlink == 1)):
            name = quoted(str(self.path))
            raise StageFailed(
                f"{self.path} belongs to {user_name(info.st_uid)}, has other names or was exchanged, and "
                f"{self.stranger} may write its folder: root does not write to it. Give it one name: "
                f"cp -p {name} {name}.new && mv {name}.new {name}"
            )

    def make_folder(self) -> None:
        """Create a folder with the mode 0700. Raises OSError."""
        with with_path(self.path):
            os.mkdir(self.at, 0o700, dir_fd=self.folder)

    def new_tree(self) -> Tree:
        """Create a folder with the mode 0700 and open it. Raises OSError, StageFailed if it was exchanged meanwhile."""
        self.make_folder()
        tree = self.tree()
        with with_path(self.path):
            info = os.fstat(tree.fd)
            if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077 or os.listdir(tree.fd):
                tree.close()
                raise StageFailed(f"{self.path} was exchanged by another process while it was created.")
        return tree

    def remove(self) -> None:
        """Remove what is here, also a folder with content; nothing is no error. Raises OSError."""
        with with_path(self.path):
            remove_tree(Path(self.at), self.folder)

    def unlink(self) -> None:
        """Remove a file or link. Raises OSError."""
        with with_path(self.path):
            os.unlink(self.at, dir_fd=self.folder)

    def rename(self, target: Place) -> None:
        """Move what is here to ``target``. Raises OSError."""
        with with_path(self.path):
            os.rename(self.at, target.at, src_dir_fd=self.folder, dst_dir_fd=target.folder)

    def exchange(self, other: Place) -> None:
        """Swap the content of two places in one step; see ``core.durable.exchange``. Raises OSError."""
        with with_path(self.path):
            exchange(Path(self.at), Path(other.at), self.folder, other.folder)

    def flush(self) -> None:
        """Flush a file, or a folder with all its content; a link is flushed with its folder. Raises OSError."""
        with with_path(self.path):
            fsync_tree(Path(self.at), self.folder)

    def flush_file(self) -> None:
        """Flush a regular file. Raises OSError."""
        with with_path(self.path):
            fsync_file(Path(self.at), self.folder)

    def flush_folder(self) -> None:
        """Flush the names in the folder. Raises OSError."""
        with with_path(self.path.parent):
            if self.folder is None:
                fsync_directory(self.path.parent)
            else:
                fsync_directory(Path("."), self.folder)

    def _open_folder(self) -> int:
        with with_path(self.path.parent):
            if self.folder is None:
                return os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.folder)


def trusted(path: Path) -> Place:
    """Return the place of a path that only this user can change, such as one in a snapshot."""
    return Place(path)


@contextlib.contextmanager
def found(path: Path) -> Iterator[Place]:
    """Look up the folder of ``path``, and hold it open while the block runs. The name in it need not exist.

    ``path`` is absolute. Raises FileNotFoundError or NotADirectoryError when the folder does not exist, OSError, and
    StageFailed for root when a link in the path was made by another user.
    """
    walker = _Walker()
    try:
        walker.go(path.parent)
        yield Place(path, walker.fd, walker.stranger_at(path.name))
    finally:
        walker.close()


@contextlib.contextmanager
def find(path: Path) -> Iterator[Place | None]:
    """Do the same as ``found``, and yield None when the folder does not exist."""
    with contextlib.ExitStack() as held:
        try:
            place: Place | None = held.enter_context(found(path))
        except OSError as error:
            if error.errno not in _NAMES_NOTHING:
                raise
            place = None
        yield place


class _Walker:
    """Goes to a folder name by name. ``fd`` is the descriptor of the folder that was reached."""

    def __init__(self) -> None:
        self.fd = _open_root()
        self._info = os.fstat(self.fd)
        self._stranger: str | None = None  # of the folders above
        self._where = Path("/")
        self._links = 0

    def close(self) -> None:
        os.close(self.fd)

    def go(self, path: Path) -> None:
        """Go to a folder; a relative path starts at the folder that was reached. Raises StageFailed, OSError."""
        if path.is_absolute():
            root = _open_root()
            self._enter(root, os.fstat(root), Path("/"))
            self._stranger = None
        for name in path.parts[path.is_absolute() :]:
            self._step(name)

    def stranger_at(self, name: str) -> str | None:
        """Name who but root may exchange ``name`` in the folder that was reached, or a folder above it."""
        if self._stranger is not None or os.geteuid() != 0:
            return self._stranger
        folder = self._info
        if folder.st_uid != 0:
            return user_name(folder.st_uid)
        if not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        if folder.st_mode & stat.S_ISVTX:  # only its owner may rename or remove a name
            with contextlib.suppress(OSError):
                owner = os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_uid
                return user_name(owner) if owner else None
        return "every user" if folder.st_mode & stat.S_IWOTH else f"group {folder.st_gid}"

    def _step(self, name: str) -> None:
        where, stranger = self._where / name, self.stranger_at(name)
        with with_path(where):
            fd = os.open(name, _LOOK, dir_fd=self.fd)
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            self._enter(fd, info, where)
            self._stranger = stranger
            return
        try:
            if not stat.S_ISLNK(info.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(where))
            self._links += 1
            if self._links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(where))
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        if os.geteuid() == 0 and (info.st_uid != 0 or stranger is not None):
            who = f"{user_name(info.st_uid)} made" if info.st_uid else f"{stranger} can exchange"
            raise StageFailed(
                f"{where} is a link that {who}, and root does not follow it. Remove the link, run the command as the "
                f"user of the service, or configure the path that the link leads to: {excerpt_line(target)}"
            )
        self.go(Path(target))
        self._stranger = self._stranger or stranger

    def _enter(self, fd: int, info: os.stat_result, where: Path) -> None:
        os.close(self.fd)
        self.fd, self._info, self._where = fd, info, where


def _open_root() -> int:
    return os.open("/", _LOOK | os.O_DIRECTORY)
