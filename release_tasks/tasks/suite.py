"""The namespace with all tasks of the suite."""

from __future__ import annotations

import functools

from invoke import Collection

__all__ = ["suite"]


@functools.cache
def suite() -> Collection:
    """Return the namespace with every task, without the libraries that only a running task needs."""
    from release_tasks.tasks.uncaught import describe_load_errors

    describe_load_errors()
    from release_tasks.tasks.gate import collection as gate
    from release_tasks.tasks.gateway import collection as gateway
    from release_tasks.tasks.pairing import collection as pairing
    from release_tasks.tasks.release import collection as release

    namespace = Collection("release_tasks")
    for collection in (release, gate, pairing, gateway):
        namespace.add_collection(collection)
    for name in namespace.task_names:
        namespace[name].suite_name = name
    return namespace
