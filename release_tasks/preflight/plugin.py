"""Gates of other packages: entry points of the group ``release_tasks.gates``.

An entry point is a callable that takes a ``release_tasks.preflight.gate.GateContext`` and returns a
``Verdict``.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from release_tasks.preflight.gate import GateContext, Verdict

__all__ = ["GROUP", "check_plugin"]

GROUP = "release_tasks.gates"


def check_plugin(context: GateContext) -> Verdict:
    """Let the installed entry point that the gate names decide."""
    name = context.config.python or ""
    found = entry_points(group=GROUP)
    point = next((point for point in found if point.name == name), None)
    if point is None:
        known = ", ".join(sorted({point.name for point in found})) or "none"
        return Verdict(
            passed=False,
            detail=f"no installed package offers the gate {name!r} (offered: {known})",
            command=f"{GROUP}:{name}",
            diagnostics={"next": "pip list"},
        )
    verdict = point.load()(context)
    if not isinstance(verdict, Verdict):
        kind = type(verdict).__name__
        return Verdict(
            passed=False,
            detail=f"{point.value} returned {kind}, expected a Verdict",
            command=point.value,
        )
    return verdict
