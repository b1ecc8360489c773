"""Release a stateful service and roll it back safely, with Invoke tasks or from a Python program.

``from release_tasks import ns`` in a tasks.py gives a project every task of the suite. The stages behind the tasks are
functions of this package, listed in ``release_tasks.api``. Everything is loaded on first use.
"""

import os
import sys

# Before any other import, and one from ``__future__`` is one too: the folder of the project is in front of the standard
# library, and other users may own folders in it.
if os.geteuid() == 0:
    _path, _python = sys.path[:], os.path.dirname(os.__file__)
    _installed = ("/site-packages", "/dist-packages")
    sys.path.sort(key=lambda each: 1 if each.endswith(_installed) else 0 if f"{each}/".startswith(f"{_python}/") else 2)
    from release_tasks.core.own_modules import guard_imports

    guard_imports()
    sys.path[:] = _path

import importlib
from typing import TYPE_CHECKING, Any

from release_tasks.core.version import __version__ as __version__

if TYPE_CHECKING:
    from invoke import Collection

    from release_tasks.api import *  # noqa: F403

    ns: Collection


def __getattr__(name: str) -> Any:
    # Built on first use: the processes of the gateway import this package too, without Invoke.
    if name == "ns":
        from release_tasks.tasks.suite import suite

        return suite()
    if name == "__all__":
        return sorted(["__version__", "ns", *_api()])
    if not name.startswith("_") and name in _api():
        return _api()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "__all__", "ns", *_api()})


def _api() -> dict[str, Any]:
    public = vars(importlib.import_module("release_tasks.api"))
    return {name: value for name, value in public.items() if not name.startswith("_")}
