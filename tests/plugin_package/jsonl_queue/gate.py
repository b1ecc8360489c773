"""The gate ``queue-depth``: checks that the queue is readable and short enough for a release."""

from __future__ import annotations

from jsonl_queue import problems
from release_tasks.plugins import GateContext, PluginError, Verdict

__all__ = ["check"]


def check(context: GateContext) -> Verdict:
    """Count the records of the queue in ``path``; fail when there are more than ``most``."""
    unknown = set(context.options) - {"path", "most"}
    if unknown or "path" not in context.options:
        raise PluginError(f"release.gates.{context.name}.with: expected path, and optionally most")
    queue = context.project / context.options["path"]
    most = context.options.get("most", 1000)
    try:
        found, waiting = problems(queue), queue.read_bytes().count(b"\n")
    except OSError as error:
        found, waiting = [f"cannot be read: {error.strerror}"], 0
    finding = found[0] if found else f"{waiting} waiting, at most {most} allowed"
    return Verdict(
        passed=not found and waiting <= most,
        detail=f"{context.options['path']}: {finding}",
        command=f"count the lines of {queue}",
        diagnostics={"waiting": waiting, "next": f"wc -l {queue}"},
    )
