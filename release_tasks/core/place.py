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
from release_tasks.core.durable import MayRemove, exchange, fsync_directory, fsync_file, fsync_tree, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.flags import protecting_flag
from release_tasks.core.tree import Entry, Missed, Tree, refuse, walk
from release_tasks.core.users import user_name

__all__ = ["HALF_MADE", "Place", "Rights", "drop_list", "find", "found", "may_give", "may_remove", "trusted"]

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC  # macOS has no O_PATH
# The mode of a folder that is not complete yet. Others of root do not have the sticky bit and no rights for others. The
# umask can remove bits of it, and a folder above add the setgid bit.
HALF_MADE = stat.S_ISVTX | stat.S_IRWXU
_MAX_LINKS = 40  # the limit of Linux (path_resolution(7))
# Errors of a path that names nothing: a folder above it is missing, is a file, or is in a loop of links.
_NAMES_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Errors of removexattr(2): no list, or a filesystem without lists.
_NO_LIST = (errno.ENODATA, errno.ENOTSUP)


@frozen
class Rights:
    """Owner, group and mode of a file or folder."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, info: os.stat_result) -> Rights:
        """Return the rights in a result of stat."""
        return cls(info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode))

    def are_more_than(self, info: os.stat_result) -> bool:
        """Return whether these rights let a user other than the owner do more than the present ones."""
        group = self.mode & stat.S_IRWXG and self.gid != info.st_gid
        return bool(group or self.mode & ~info.st_mode & (stat.S_IRWXG | stat.S_IRWXO))


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
        """Raise StageFailed when a write to the open file ``fd`` could reach a file with a name elsewhere.

        The owner of the folder can give a name in it to a file of another user (link(2), without the kernel's
        fs.protected_hardlinks). A file of the owner of the folder is no such file, and neither is one with one name.
        For a file that gets other content or rights, see ``is_own_file``.
        """
        if os.geteuid() != 0 or self.stranger is None:
            return
        info, folder, named = os.fstat(fd), self.folder_info(), self.look()
        is_of_folder = info.st_uid == folder.st_uid and folder.st_uid != 0
        has_one_name = info.st_nlink == 1 and named is not None and os.path.samestat(info, named)
        if not (is_of_folder or (has_one_name and named is not None and named.st_nlink == 1)):
            raise StageFailed(
                f"{self.path} belongs to {user_name(info.st_uid)}, has other names (hard links) or was exchanged, and "
                f"{self.stranger} may write its folder: root does not write to it. Remove the other names of the file, "
                "or run the command as the user of the service."
            )

    def is_own_file(self, info: os.stat_result, rights: Rights) -> bool:
        """Return whether root may write to a file here that it did not create, and give it ``rights``.

        A user who may write two folders of a disk can rename a file of any user from one into the other, so the name of
        a file proves nothing about it. Its owner does. Unless that is the owner of the folder, the file must also have
        one name, and ``rights`` must let no other user do more with it. Every file is right where root alone may put
        one, and for other users than root. ``info`` is the result of fstat. Raises OSError.
        """
        if os.geteuid() != 0 or self.stranger is None:
            return True
        if info.st_uid != rights.uid:
            return False
        is_of_folder = rights.uid != 0 and rights.uid == self.folder_info().st_uid
        return is_of_folder or (info.st_nlink == 1 and not rights.are_more_than(info))

    def is_own_folder(self, info: os.stat_result, rights: Rights) -> bool:
        """Return whether root may give ``rights`` to a folder here that it did not create; see ``may_give``."""
        return self.stranger is None or may_give(info, self.folder_info(), rights)

    def make_folder(self, mode: int = 0o700) -> None:
        """Create a folder. Raises OSError."""
        with with_path(self.path):
            os.mkdir(self.at, mode, dir_fd=self.folder)

    def new_tree(self, mode: int = 0o700) -> Tree:
        """Create a folder and open it. Raises OSError, StageFailed if it was exchanged meanwhile."""
        self.make_folder(mode)
        tree = self.tree()
        with with_path(self.path):
            info = os.fstat(tree.fd)
            if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077 or os.listdir(tree.fd):
                tree.close()
                raise StageFailed(f"{self.path} was exchanged by another process while it was created.")
            self.drop_inherited_list(tree.fd)
        return tree

    def drop_inherited_list(self, fd: int) -> None:
        """Remove the access list that a file or folder got from the folder, whose owner may be another user.

        Otherwise a later mode of the file would give the users of the list as much as its group (acl(5)). In a run as
        root only, where another user may change the folder; call it for what was created by this process. Raises
        OSError.
        """
        if self.stranger is not None and os.geteuid() == 0:
            drop_list(fd)

    def remove(self) -> None:
        """Remove what is here, also a folder with content; nothing is no error.

        Raises OSError, StageFailed for a folder that another user may have moved there.
        """
        self.require_removed(self.remove_movable())

    def remove_movable(self, may_remove_all: MayRemove | None = None) -> list[str]:
        """Remove what is here, and return the paths of the folders that stay below it; see ``may_remove``."""

        def decide(inner: os.stat_result, around: os.stat_result | None) -> bool:
            if around is not None:
                return may_remove(inner, around)
            return self.stranger is None or may_remove(inner, self.folder_info(), is_renamed=True)

        with with_path(self.path):
            return remove_tree(Path(self.at), self.folder, may_remove_all or decide)

    def require_removed(self, kept: list[str], name: str = "") -> None:
        """Raise StageFailed for the first of these paths below ``name``."""
        for path in kept[:1]:
            shown = excerpt_line(os.path.normpath(self.path / name / path))
            raise StageFailed(
                f"{shown} is a folder that another user may have moved there and cannot remove: root does not remove "
                "it. Move it to a folder of its owner, and retry."
            )

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


def drop_list(fd: int) -> None:
    """Remove the POSIX access list of an open file or folder, and the default list of a folder. Raises OSError."""
    if not hasattr(os, "removexattr"):  # macOS
        return
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in _NO_LIST:
                raise


def may_give(info: os.stat_result, around: os.stat_result, rights: Rights) -> bool:
    """Return whether root may give ``rights`` to a folder that it did not create, in the folder ``around``.

    The folder must have the owner already, as in ``Place.is_own_file``. Unless the owner of ``around`` is the same, or
    is root, the rights must let no other user do more. Always True for other users than root, and for a folder that a
    run of root did not complete.
    """
    if os.geteuid() != 0 or _is_half_made(info):
        return True
    is_of_user = rights.uid != 0 and around.st_uid in (0, rights.uid)
    return info.st_uid == rights.uid and (is_of_user or not rights.are_more_than(info))


def may_remove(inner: os.stat_result, around: os.stat_result, *, is_renamed: bool = False) -> bool:
    """Return whether root may remove the folder ``inner`` with its content from the folder ``around``.

    A user who may write ``around`` can rename a folder of any user in it, with ``is_renamed`` to the name that root
    removes, and can move one there that this user may write (rename(2)), but cannot empty it. So root removes only what
    that user can empty too. Always True for other users than root, and for a folder that a run of root did not
    complete.
    """
    if os.geteuid() != 0 or _is_half_made(inner):
        return True
    others = stat.S_IWGRP | stat.S_IWOTH
    if around.st_uid != 0:
        return inner.st_uid == around.st_uid or not (is_renamed or inner.st_mode & others)
    writers = around.st_mode & others if not around.st_mode & stat.S_ISVTX else 0
    is_same_group = inner.st_gid == around.st_gid
    if inner.st_uid != 0:
        return not writers or is_same_group
    return not writers & ~inner.st_mode and (is_same_group or not writers & stat.S_IWGRP)


def _is_half_made(info: os.stat_result) -> bool:
    """Return whether root made the folder and did not complete it; only root can give a folder of root this mode."""
    bits = stat.S_ISVTX | stat.S_IRWXG | stat.S_IRWXO
    return info.st_uid == 0 and info.st_mode & bits == HALF_MADE & bits


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
