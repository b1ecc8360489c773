"""Act as another user, for tests that run as root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["as_user"]

_USER = 12345  # of no account


@contextlib.contextmanager
def as_user(owned: Path, mode: int | None = None) -> Iterator[None]:
    """Act as another user in the block, who owns everything below ``owned``; ``mode`` is the new one of its folders.

    The folders above must be searchable by all.
    """
    paths = [owned, *owned.rglob("*")]
    modes = {path: path.lstat().st_mode for path in paths if not path.is_symlink()}
    for path in paths:
        os.lchown(path, _USER, _USER)
    for path in modes:
        if mode is not None and path.is_dir():
            os.chmod(path, mode)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(_USER)
    os.seteuid(_USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        for path in paths:
            os.lchown(path, 0, 0)
        for path, former in modes.items():
            os.chmod(path, former & 0o7777)
