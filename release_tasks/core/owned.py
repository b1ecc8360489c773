"""The folders of this package itself. A run as root uses them only if no other user can change them.

Manifests, snapshots, logs and approvals are reached by their paths, again and again. That is safe only where root alone
can put a link, a file or a folder into a path. So a run as root refuses a path with a part that another user made or
may write, like sshd does with its StrictModes.

The check needs no descriptors to be free of races. It starts at ``/`` and goes down. When it looks a name up, root
alone can change the folder of that name, because this was checked before. So a path that passes stays as it was until
root changes it. A path that changes during the check has a folder that another user may write, and is refused for that.

A run as another user has only the rights of that user, and is not checked.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from release_tasks.core.errors import ConfigError, StageFailed, describe_error
from release_tasks.core.location import lstat_or_none
from release_tasks.core.printable import one_line
from release_tasks.core.typed import quoted
from release_tasks.core.users import user_name

__all__ = ["Exposure", "ForeignFolder", "exposure_inside", "exposure_of", "require_own", "require_own_parent"]

_MAX_LINKS = 40  # the limit of Linux (path_resolution(7))
_DEPTH = 2  # levels below a folder of this package whose entries are checked: manifests/ID.json, snapshots/ID
_DEEP = 20  # levels of a package of tasks
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ACL = "system.posix_acl_access"
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")  # tag, permissions, id; see acl(5)
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK, _ACL_OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
_ACL_WRITE = 2


class ForeignFolder(ConfigError):
    """Root does not use a folder, because another user can change it (exit 2)."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """A file, folder or link that another user can change. ``fix`` is the command that ends this.

    ``reason`` is the rest of a sentence about ``path``. ``uid`` is the user, where it is one user.
    """

    path: Path
    reason: str
    fix: str
    uid: int | None = None

    def __str__(self) -> str:
        return f"{one_line(str(self.path))} {self.reason}"  # another user chose the name

    def ways_out(self, *others: str) -> str:
        """Return what an operator can do, as one sentence."""
        ways = [*others, f"let root alone change it: {self.fix}"]
        if self.uid is not None:
            ways.insert(0, f"run inv as that user: sudo -u {quoted(_login(self.uid))} inv ...")
        return f"Choose one: {'; or '.join(ways)}"


def require_own(path: Path, key: str, *, is_made_private: bool = False) -> None:
    """Raise ForeignFolder if this is a run as root, and another user can change ``path`` or what is in it.

    The folder and its first two levels are checked; it need not exist. ``key`` is the name of its option. With
    ``is_made_private`` the caller removes the access of other users to the folder of root and to its files. Raises
    StageFailed when the folders cannot be read.
    """
    if os.geteuid() != 0:
        return
    try:
        exposure = _exposure_above(path, is_modes_checked=not is_made_private)
        exposure = exposure or next(_exposures_inside(path, _DEPTH, is_modes_checked=not is_made_private), None)
    except OSError as error:
        raise StageFailed(f"It is unknown whether other users can change {path}: {describe_error(error)}") from error
    if exposure is not None:
        another = f"set {key} to a folder of root, such as /var/lib/release-tasks/NAME"
        raise ForeignFolder([f"{key}: root does not use {path}: {exposure}. {exposure.ways_out(another)}"])


def require_own_parent(path: Path, label: str) -> None:
    """Raise ForeignFolder if this is a run as root, and another user can change the folder that ``path`` is written to.

    A folder such as /tmp is allowed: in it, each user can change only the files of that user. ``label`` names the
    flag.
    """
    if os.geteuid() == 0 and (exposure := _exposure_above(path.parent, may_be_shared=True)) is not None:
        way = "Name a path in a folder of root, or in /tmp."
        raise ForeignFolder([f"{label}: root does not write {path}: {exposure}. {way}"])


def exposure_of(path: Path) -> Exposure | None:
    """Return why another user can change ``path``, or what is written there; None in a run as another user than root.

    A folder such as /tmp counts as safe: in it, each user can change only the files of that user.
    """
    return _exposure_above(path, may_be_shared=True) if os.geteuid() == 0 else None


def exposure_inside(folder: Path) -> Exposure | None:
    """Return what another user can change in a folder of root and in those below it, as ``exposure_of`` does."""
    return next(_exposures_inside(folder, _DEEP, is_modes_checked=True), None) if os.geteuid() == 0 else None


def _exposure_above(path: Path, *, is_modes_checked: bool = True, may_be_shared: bool = False) -> Exposure | None:
    """Return the first folder or link on the way to ``path``, ``path`` included, that another user can change.

    ``is_modes_checked`` says whether the mode of the last folder counts, ``may_be_shared`` whether it may be like /tmp.
    """
    place, pending, links = Path("/"), list(path.parts[1:]), 0
    while (info := lstat_or_none(place)) is not None:
        name = pending.pop(0) if pending else None
        is_checked = name is not None or is_modes_checked
        if is_checked and (exposure := _exposure_by_modes(place, info, name, may_be_shared)):
            return exposure
        if name is None:
            return None
        below = place / name
        info = lstat_or_none(below)
        if info is None:
            return None
        if info.st_uid != 0:
            return _foreign(below, info)
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return None  # the path names nothing, and its user says so
            target = Path(os.readlink(below))
            place = Path("/") if target.is_absolute() else place
            pending[:0] = target.parts[target.is_absolute() :]
        else:
            place = place.parent if name == ".." else below
    return None


def _exposure_by_modes(place: Path, info: os.stat_result, name: str | None, may_be_shared: bool) -> Exposure | None:
    """Return whether users other than root may put something in the place of ``name`` in a folder of root.

    With the sticky bit, they may create a name that does not exist, and cannot change one of root.
    """
    if info.st_uid != 0:  # "/" itself: every other folder was looked at when it was reached
        return _foreign(place, info)
    exposure = _writable(place, info)
    if exposure is None or not info.st_mode & stat.S_ISVTX:
        return exposure
    if name is None:
        return None if may_be_shared else exposure
    if lstat_or_none(place / name) is not None:
        return None
    missing = place / name
    reason = f"does not exist, and other users may create it in {place}"
    return Exposure(path=missing, reason=reason, fix=f"mkdir -m 700 {quoted(str(missing))}")


def _exposures_inside(folder: Path, depth: int, *, is_modes_checked: bool) -> Iterator[Exposure]:
    """Yield what another user can change in a folder of root, for instance since a time when all could write there."""
    # A pipeline can have thousands of names, and each command of root looks at them: so paths are made only if needed.
    for name, info in _listed(folder):
        if info.st_uid != 0:
            yield _foreign(folder / name, info, is_inside=True)
        elif stat.S_ISLNK(info.st_mode):
            if exposure := _exposure_above(folder / name):
                yield exposure
        elif is_modes_checked and info.st_mode & _OTHERS_WRITE and (exposure := _writable(folder / name, info)):
            yield exposure
        elif stat.S_ISDIR(info.st_mode) and depth > 1:
            yield from _exposures_inside(folder / name, depth - 1, is_modes_checked=is_modes_checked)


def _listed(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Return the sorted names in a folder, with the results of lstat; nothing for a folder that does not exist."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another run removes files meanwhile
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return sorted(found, key=lambda each: each[0])


def _foreign(path: Path, info: os.stat_result, *, is_inside: bool = False) -> Exposure:
    user, name = user_name(info.st_uid), quoted(str(path))
    if stat.S_ISLNK(info.st_mode):
        return Exposure(path=path, reason=f"is a link that {user} made", fix=f"rm {name}", uid=info.st_uid)
    all_of_it = " -R" if is_inside and stat.S_ISDIR(info.st_mode) else ""
    fix = f"chown{all_of_it} root: {name} && chmod{all_of_it} go-w {name}"
    return Exposure(path=path, reason=f"belongs to {user}", fix=fix, uid=info.st_uid)


def _writable(path: Path, info: os.stat_result) -> Exposure | None:
    """Return whether the mode, or the access list, lets others than root write a file or folder of root."""
    if not info.st_mode & _OTHERS_WRITE:  # with an access list, the bits of the group are the limit of its entries
        return None
    name = quoted(str(path))
    fix = f"chmod go-w {name}"
    if info.st_mode & stat.S_IWOTH:
        return Exposure(path=path, reason="may be written by every user", fix=fix)
    writers = _writers_by_list(path)
    if writers is not None:
        uid, writer = next(iter(writers), (None, None))
        if writer is None:
            return None
        return Exposure(path=path, reason=f"may be written by {writer}", fix=f"setfacl -b {name} && {fix}", uid=uid)
    if info.st_gid == 0:
        return None
    return Exposure(path=path, reason=f"may be written by {_group(info.st_gid)}", fix=fix)


def _writers_by_list(path: Path) -> list[tuple[int | None, str]] | None:
    """Return the users and groups but root that the POSIX access list of ``path`` lets write; None without a list."""
    try:
        data = os.getxattr(path, _ACL, follow_symlinks=False)
    except (OSError, AttributeError):  # no list, a filesystem without lists, macOS
        return None
    entries = list(_ACL_ENTRY.iter_unpack(data[_ACL_HEADER.size :]))
    mask = next((permissions for tag, permissions, _ in entries if tag == _ACL_MASK), ~0)
    found: list[tuple[int | None, str]] = []
    for tag, permissions, number in entries:
        if not permissions & mask & _ACL_WRITE:
            continue
        if tag == _ACL_USER and number != 0:
            found.append((number, user_name(number)))
        elif tag == _ACL_GROUP and number != 0:
            found.append((None, _group(number)))
        elif tag == _ACL_GROUP_OBJ and (group := os.lstat(path).st_gid) != 0:
            found.append((None, _group(group)))
    return found


def _login(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"#{uid}"


def _group(gid: int) -> str:
    import grp

    with contextlib.suppress(KeyError):
        return f"group {grp.getgrgid(gid).gr_name} (gid {gid})"
    return f"group {gid}"
