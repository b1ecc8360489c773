"""Invoke tasks that take a stateful service through a release and safely back.

``from release_tasks import ns`` in a tasks.py gives a project every task of the suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from release_tasks.version import __version__

if TYPE_CHECKING:
    from invoke import Collection

    ns: Collection

__all__ = ["__version__", "ns"]


def __getattr__(name: str) -> Any:
    # Built on first use: the gateway's processes import this package too, and have no need of Invoke.
    if name == "ns":
        from release_tasks.tasks import suite

        return suite()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
