"""Path gates: a file or folder must exist, be readable and not be empty."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import NOTHING, frozen

from release_tasks.core.options import option
from release_tasks.core.typed import quoted
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path

__all__ = ["KIND", "PathOptions"]


@frozen(kw_only=True)
class PathOptions:
    """The key of a path gate."""

    path: Path = option("a file or folder that must exist and not be empty", NOTHING)


def _check(context: GateContext) -> Verdict:
    """Check that the gate's path exists and is not empty."""
    path: Path = context.config.options.path
    name = shown_path(path, context.settings)
    try:
        passed, finding = _examine(path)
    except OSError as error:
        passed, finding = False, f"cannot be read: {error.strerror}"
    diagnostics = {"path": str(path)}
    if not passed:
        diagnostics["next"] = f"ls -la {quoted(str(path))}"
    return Verdict(passed=passed, detail=f"{name} {finding}", diagnostics=diagnostics)


def _examine(path: Path) -> tuple[bool, str]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if path.is_symlink():
            return False, f"is a link to {os.readlink(path)}, which is missing"
        return False, "is missing"
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(path) as entries:
            is_empty = next(entries, None) is None
        return (False, "is an empty folder") if is_empty else (True, "is a folder")
    if not stat.S_ISREG(status.st_mode):
        return True, "exists (neither a file nor a folder)"
    if status.st_size == 0:
        return False, "is an empty file"
    if not os.access(path, os.R_OK):
        return False, "cannot be read: Permission denied"
    return True, f"is a file of {status.st_size} bytes"


KIND = GateKind(name="path", options=PathOptions, check=_check)
