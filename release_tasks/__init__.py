"""Carry a stateful service through a release and safely back: as Invoke tasks, or from a program of your own.

``from release_tasks import ns`` in a tasks.py gives a project every task of the suite. The stages behind the tasks are
functions of this package, listed in ``release_tasks.api``. Everything is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from release_tasks.core.version import __version__ as __version__

if TYPE_CHECKING:
    from invoke import Collection

    from release_tasks.api import *  # noqa: F403

    ns: Collection


def __getattr__(name: str) -> Any:
    # Built on first use: the gateway's processes import this package too, and have no need of Invoke.
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
    offered = vars(importlib.import_module("release_tasks.api"))
    return {name: value for name, value in offered.items() if not name.startswith("_")}
