"""Command lines that run a module of this package in another Python.

``python -m`` puts the current folder in front of the standard library, where another user may own a folder with the
name of a module. Python 3.10 has no option against that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["function_line", "module_line"]

_FOLDER = str(Path(__file__).parents[3])  # of this package: the other process uses the same version
_MODULE = (
    "import sys; sys.path[:] = filter(None, sys.path); import os, runpy, typing; own, name = sys.argv[1:3]; "
    "del sys.argv[1:3]; sys.path.insert(0, own); import release_tasks; sys.path.append(sys.path.pop(0)); "
    "runpy.run_module(name, run_name='__main__', alter_sys=True)"
)
_FUNCTION = (
    "import sys; sys.path[:] = filter(None, sys.path); import os, typing; own, *path = sys.argv[1:]; "
    "sys.path[:] = [own, *path]; import release_tasks; sys.path[:] = path; from {module} import main; main()"
)


def module_line(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` as ``python -m`` does, without the current folder."""
    return [sys.executable, "-c", _MODULE, _FOLDER, module, *arguments]


def function_line(module: str, options: Iterable[str] = ()) -> list[str]:
    """Return the command line that runs ``main`` of ``module`` with the module search path of this process.

    ``options`` are those of Python.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    return [sys.executable, *options, "-c", _FUNCTION.format(module=module), _FOLDER, *path]
