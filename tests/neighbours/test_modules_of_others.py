"""Python of root imports no module of another user from a folder of root, wherever the folder is in the search path."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets.plugin_host.lookup import GATES, PluginUnusable, find_plugin
from release_tasks.core.process.python import function_line, module_line

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to act as two users"
    ),
]

NEIGHBOUR = 4711  # of no account
# Imports each module, and prints the file that it came from, or None.
_IMPORTS = """
import sys
names, folder, place = sys.argv[1].split(), sys.argv[2], sys.argv[3]
sys.path.insert(0 if place == "first" else len(sys.path), folder)
import release_tasks, importlib, json
found = {}
for name in names:
    try:
        found[name] = getattr(importlib.import_module(name), "__file__", None)
    except ImportError:
        found[name] = None
print(json.dumps(found))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of root, with a module of root."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "of_root.py").write_text("")
    return folder


def give(*paths: Path) -> None:
    for path in paths:
        for each in (path, *path.rglob("*")):
            os.lchown(each, NEIGHBOUR, NEIGHBOUR)


def plant(project: Path, *names: str) -> None:
    """Let the neighbour own packages, or files for names that end with ``.py``, that leave a mark next to them."""
    for name in names:
        file = project / name if name.endswith(".py") else project / name / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({str(project / 'ran')!r}, 'a').write({name!r})\n")
        give(project / name)


def imported(project: Path, *names: str, place: str = "first") -> tuple[dict[str, Any], str]:
    """Return the files of the modules that a process imports, and what it wrote to stderr."""
    command = [sys.executable, "-B", "-c", _IMPORTS, " ".join(names), str(project), place]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("place", ["first", "last"])
def test_modules_of_others_are_skipped(project: Path, place: str) -> None:
    """Modules of Python and of libraries come from there, and a library that is not installed stays missing."""
    plant(project, "secrets", "typing", "attr", "colorsys.py", "no_such_library", "invoke")
    names = ("secrets", "typing", "attr", "colorsys")
    found, errors = imported(project, *names, "no_such_library", "of_root", place=place)
    assert not (project / "ran").exists()
    assert found["of_root"] == str(project / "of_root.py")
    assert found["no_such_library"] is None
    assert not [found[name] for name in names if found[name] is None or found[name].startswith(str(project))]
    reason = f"root does not import no_such_library: {project}/no_such_library belongs to uid 4711. Choose one: "
    assert [line.startswith(reason) for line in errors.splitlines()] == [True], errors


def a_compiled_file(project: Path) -> None:
    """The compiled file says that it was made from the file of root."""
    file = project / "of_root.py"
    info = file.stat()
    file.write_text(f"open({str(project / 'ran')!r}, 'w')\n")
    py_compile.compile(str(file))
    code = bytearray(next((project / "__pycache__").iterdir()).read_bytes())
    file.write_text("")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    code[8:16] = int(info.st_mtime).to_bytes(4, "little") + (0).to_bytes(4, "little")
    next((project / "__pycache__").iterdir()).write_bytes(code)
    give(project / "__pycache__")


def a_file_inside_a_package_of_root(project: Path) -> None:
    (project / "of_root.py").unlink()
    (project / "of_root").mkdir()
    (project / "of_root" / "__init__.py").write_text("from of_root import inner\n")
    plant(project / "of_root", "inner.py")


def a_folder_without_a_file(project: Path) -> None:
    (project / "of_root.py").unlink()
    (project / "of_root").mkdir()
    give(project / "of_root")


@pytest.mark.parametrize("change", [a_compiled_file, a_file_inside_a_package_of_root, a_folder_without_a_file])
def test_parts_of_modules_are_checked(project: Path, change: Callable[[Path], None]) -> None:
    """What a neighbour may change of a module is code of the neighbour."""
    change(project)
    found, errors = imported(project, "of_root")
    assert found == {"of_root": None}
    assert "belongs to uid 4711. Choose one: " in errors
    assert not (project / "ran").exists() and not (project / "of_root" / "ran").exists()


def test_a_folder_of_others_is_searched_as_before(project: Path) -> None:
    """Its owner writes the tasks.py in it as well; preflight says so."""
    plant(project, "helper")
    os.chown(project, NEIGHBOUR, NEIGHBOUR)
    assert imported(project, "helper")[0]["helper"] == str(project / "helper" / "__init__.py")


def test_another_user_imports_as_before(ground: Path) -> None:
    """Only root has rights to lose: also a process that gave them up."""
    plant(ground, "a_helper_of_others")
    os.chmod(ground, 0o777)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NEIGHBOUR)
        os.setuid(NEIGHBOUR)
        sys.path.insert(0, str(ground))
        os._exit(0 if importlib.util.find_spec("a_helper_of_others") is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_plugins_of_others_are_not_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata of an installed package may be a folder next to tasks.py; it could name any function."""
    installed = project / "planted-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[{GATES}]\nplanted-gate = os:system\n")
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    assert find_plugin(GATES, "planted-gate").package == "planted 1"
    give(installed)
    with pytest.raises(PluginUnusable, match="no installed package offers the gate 'planted-gate'"):
        find_plugin(GATES, "planted-gate")


def test_processes_of_root_import_nothing_from_their_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the current folder, nor from one in front of the search path."""
    plant(project, "runpy", "importlib", "typing", "json", "attr", "signal", "release_tasks")
    clock = module_line("release_tasks.gateway.mcp_clock")
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    for command, code in ((clock, 0), (function_line("release_tasks.assets.plugin_host.child"), 1)):
        done = subprocess.run(command, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert (done.returncode, done.stderr) == (code, b"")
    reader = function_line("release_tasks.assets.sqlite.child", ["-I", "-S"])
    done = subprocess.run(reader, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (project / "ran").exists()
