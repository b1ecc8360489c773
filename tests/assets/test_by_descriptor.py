"""Nothing below an asset is touched by a path: every call that takes a name also gets the descriptor of its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import release_tasks

PACKAGE = Path(release_tasks.__file__).parent
MODULES = [
    *sorted((PACKAGE / "assets").rglob("*.py")),
    PACKAGE / "archive" / "parents.py",
    PACKAGE / "archive" / "capture.py",
    PACKAGE / "stages" / "rollback" / "swap.py",
    PACKAGE / "stages" / "rollback" / "recovery.py",
]
# The functions of ``os`` that take a name, and the argument with its folder.
CALLS = dict.fromkeys(("open", "stat", "lstat", "mkdir", "unlink", "rmdir", "chmod", "chown", "utime"), "dir_fd")
CALLS |= dict.fromkeys(("symlink", "readlink", "access", "remove", "mkfifo", "mknod"), "dir_fd")
CALLS |= dict.fromkeys(("rename", "replace", "link"), "src_dir_fd")
CALLS |= dict.fromkeys(("listdir", "scandir", "truncate", "makedirs", "walk", "statvfs"), "a descriptor")
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text", "touch", "iterdir", "rglob", "glob", "symlink_to"}
METHODS |= {"is_dir", "is_file", "is_symlink", "lstat", "chmod", "hardlink_to", "mkdir", "rmdir", "samefile"}
# Calls on paths that only the user of this process can change, or that change and open nothing.
_OWN = "a copy in a folder that only this user can change"
_DESCRIPTOR = "gets a descriptor as the path"
_LOOKS = "changes and opens nothing"
_PROC = "a file of /proc"
_THROUGH = "the path leads through a descriptor"
REVIEWED: dict[str, str] = {
    "archive/capture.py: _capture_through: os.mkdir": _OWN,
    "archive/capture.py: capture_asset: os.mkdir": _OWN,
    "archive/capture.py: new_snapshot: os.mkdir": _OWN,
    "archive/parents.py: _restored: is_symlink": _LOOKS,
    "archive/parents.py: _set_rights: os.chmod": _DESCRIPTOR,
    "archive/parents.py: _set_rights: os.chown": _DESCRIPTOR,
    "assets/base.py: capture_raw: os.mkdir": _OWN,
    "assets/base.py: verify: os.lstat": _OWN,
    "assets/file.py: overwrite_content: os.lstat": _OWN,
    "assets/files.py: can_share_blocks: os.open": "a file without a name, whose content is thrown away",
    "assets/files.py: keep_attributes: os.utime": _DESCRIPTOR,
    "assets/files.py: keep_attributes_of_new_link: os.chown": _THROUGH,
    "assets/files.py: keep_attributes_of_new_link: os.utime": _THROUGH,
    "assets/mounts.py: _mount_points: read_bytes": _PROC,
    "assets/overwrite.py: remove_live: os.listdir": _DESCRIPTOR,
    "assets/overwrite.py: restore_raw_copy: iterdir": _OWN,
    "assets/plugin.py: _accept_copy: os.lstat": _OWN,
    "assets/sqlite/scan.py: seal: os.stat": _OWN,
    "assets/plugin.py: _accept_copy: os.open": _OWN,
    "assets/plugin.py: _extra_files: os.listdir": _OWN,
    "assets/plugin.py: _make_private: is_dir": _OWN,
    "assets/plugin.py: _make_private: os.chmod": _OWN,
    "assets/plugin.py: _require_independent_files: is_dir": _OWN,
    "assets/plugin.py: _require_independent_files: os.lstat": _OWN,
    "assets/plugin.py: _with_content: is_dir": _OWN,
    "assets/plugin.py: capture: os.mkdir": _OWN,
    "assets/plugin.py: find_drift: os.makedirs": _OWN,
    "assets/plugin_host/child.py: _run_call: os.lstat": _OWN,
    "assets/plugin_host/child.py: _take_streams: os.open": "the null device",
    "assets/protection.py: _overwrite_blockers: os.statvfs": _LOOKS,
    "assets/protection.py: _space_blockers: os.statvfs": _LOOKS,
    "assets/sqlite/connection.py: _translated: os.access": _LOOKS,
    "assets/sqlite/database.py: _completed: os.chmod": _OWN,
    "assets/sqlite/database.py: _completed: os.stat": _OWN,
    "assets/sqlite/database.py: _copied_privately: os.rename": _OWN,
    "assets/sqlite/journal.py: settle_super_journal: os.truncate": _OWN,
    "assets/sqlite/kind.py: _place_content: os.lstat": _OWN,
    "assets/sqlite/kind.py: check_legacy: os.lstat": _OWN,
    "assets/sqlite/kind.py: find_drift: os.makedirs": _OWN,
    "assets/sqlite/pages/copies.py: create: os.open": _OWN,
    "assets/sqlite/private.py: _copy_file: os.open": _OWN,
    "assets/sqlite/private.py: _copy_once: os.mkdir": _OWN,
    "assets/sqlite/read_delta.py: main: read_bytes": "a program of its own, for the operator",
    "assets/sqlite/reader.py: _size_to_read: os.stat": _OWN,
    "assets/sqlite/system_calls.py: _opened: os.open": _THROUGH,
    "assets/sqlite/system_calls.py: _shown_by_kernel: os.readlink": _PROC,
    "assets/sqlite/system_calls.py: _unlink: os.unlink": _THROUGH,
    "assets/stored.py: owner_difference: os.lstat": _OWN,
    "assets/stored.py: recorded_owner: os.lstat": _OWN,
    "assets/stored.py: recorded_rights: os.lstat": _OWN,
    "assets/stored.py: stored_path: is_symlink": _OWN,
    "assets/trees.py: _folders_around: os.stat": _OWN,
    "assets/waiting.py: _has_open: os.listdir": _PROC,
    "assets/waiting.py: _has_open: os.stat": _PROC,
    "assets/waiting.py: _locks: read_text": _PROC,
    "stages/rollback/swap.py: require_targets: is_dir": _OWN,
}


def by_path(module: Path) -> Iterator[str]:
    """Yield ``module: function: call`` for each call in a module that gets a path and no descriptor."""
    tree = ast.parse(module.read_text())
    name = str(module.relative_to(PACKAGE))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, called = node.func.value, node.func.attr
            is_os = isinstance(owner, ast.Name) and owner.id == "os"
            if is_os and called in CALLS and CALLS[called] not in {keyword.arg for keyword in node.keywords}:
                yield f"{name}: {function.name}: os.{called}"
            elif not is_os and called in METHODS:
                yield f"{name}: {function.name}: {called}"


def test_every_call_by_path_was_reviewed() -> None:
    """Each other call gets a descriptor; a reviewed call that is gone is removed from the list."""
    found = {call for module in MODULES for call in by_path(module)}
    assert found - REVIEWED.keys() == set()
    assert REVIEWED.keys() - found == set()
