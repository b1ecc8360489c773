"""In a run as root, Python imports no module that another user can change from a folder of root.

Invoke puts the folder of the project in front of the standard library. A folder of the service in it, for instance
``secrets/``, would be imported in place of the module of that name, and what is in it would run as root. Optional
imports of libraries find such a folder wherever the project is in ``sys.path``. So its order does not help.

The folders of Python and of installed packages are not checked: who owns them runs code as root already. The same holds
for a folder in ``sys.path`` that another user can change: its owner also writes the tasks.py in it. Preflight says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import ModuleType
from typing import Any

from release_tasks.core.location import lstat_or_none
from release_tasks.core.owned import Exposure, exposure_of

__all__ = ["exposure_in_own_folder", "guard_imports"]

_PACKAGE = Path(__file__).parents[1]
_PYTHON = os.path.dirname(os.__file__)
_INSTALLED = ("site-packages", "dist-packages")
_LOADERS: list[tuple[Any, list[str]]] = [
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
]
_skipped: dict[str, Exposure] = {}  # by the name of the module
_loading: list[Path] = []  # while the words of messages are imported for them


def guard_imports() -> None:
    """Skip modules of others from now on, also in folders that Python has searched before."""
    sys.path_hooks.insert(0, _finder_for)
    sys.meta_path.append(_Explainer)
    for folder in [folder for folder in sys.path_importer_cache if not _is_trusted(folder)]:
        del sys.path_importer_cache[folder]


def exposure_in_own_folder(path: Path) -> Exposure | None:
    """Return why another user can change ``path``; None if that user can also change the folder that contains it."""
    exposure = _exposure_of(path)
    return exposure if exposure is not None and _exposure_of(path.parent) is None else None


class _OwnFinder(FileFinder):
    """Finds the modules in a folder that root alone can change."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        found = super().find_spec(fullname, target)
        if found is None:
            return None
        files = [found.origin if found.has_location else None, found.cached, *(found.submodule_search_locations or ())]
        suspects = [path for file in files if file is not None and not _is_plainly_own(path := Path(file).absolute())]
        if suspects and _loading:
            return None
        exposure = next(filter(None, map(_exposure_of, suspects)), None)
        if exposure is None:
            return found
        _skipped[fullname] = exposure
        return None


class _Explainer:
    """Python's last finder: says why it finds no module of this name."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        exposure = _skipped.pop(name, None)
        if exposure is not None and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone
                sys.stderr.write(f"root does not import {name}: {exposure}. {exposure.ways_out()}\n")


def _finder_for(folder: str) -> FileFinder:
    """Return the finder for a folder of root. ImportError says to Python that another finder is to be used."""
    if not _is_trusted(folder) and os.path.isdir(folder):
        path = Path(folder).absolute()
        if _is_plainly_own(path) or _exposure_of(path) is None:
            return _OwnFinder(folder, *_LOADERS)
    raise ImportError


def _is_trusted(folder: str) -> bool:
    places = (_PYTHON, str(_PACKAGE))
    is_below = any(folder == place or folder.startswith(place + os.sep) for place in places)
    return is_below or any(name in folder.split(os.sep) for name in _INSTALLED)


def _is_plainly_own(path: Path) -> bool:
    """Return whether nothing on the way to ``path`` is a link, or belongs to another user, or may be written by one.

    False is no answer: then ``exposure_of`` decides, which takes longer.
    """
    if os.geteuid() != 0:
        return True
    is_shared = False
    with contextlib.suppress(OSError):
        for place in (*reversed(path.parents), path):
            info = lstat_or_none(place)
            if info is None:
                return not is_shared
            is_shared = bool(info.st_mode & stat.S_ISVTX)
            is_writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_shared
            if info.st_uid != 0 or is_writable or stat.S_ISLNK(info.st_mode):
                return False
        return True
    return False


def _exposure_of(path: Path) -> Exposure | None:
    """Return why another user can change ``path``; None too when that cannot be found out."""
    if not _loading:
        # Its messages need these modules. Their imports come here again, and find no module that is suspect.
        _loading.append(path)
        try:
            importlib.import_module("release_tasks.core.redact")
        finally:
            _loading.clear()
    with contextlib.suppress(OSError):
        return exposure_of(path)
    return None
