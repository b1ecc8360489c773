"""JSON gates: a file must contain valid JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import NOTHING, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.json_file import read_json
from release_tasks.core.options import option
from release_tasks.core.typed import quoted
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path

__all__ = ["KIND", "JsonOptions"]


@frozen(kw_only=True)
class JsonOptions:
    """The key of a JSON gate."""

    json: Path = option("a file that must contain valid JSON", NOTHING)


def _check(context: GateContext) -> Verdict:
    """Check that the gate's file is valid JSON without duplicate keys."""
    path: Path = context.config.options.json
    name = shown_path(path, context.settings)
    try:
        document = read_json(path, name)
        problems = [f"{name}: duplicate key {key!r}" for key in document.duplicates]
    except InvalidDocument as error:
        problems = [str(error)]
    diagnostics: dict[str, Any] = {"path": str(path)}
    if not problems:
        return Verdict(passed=True, detail=f"{name} is valid JSON", diagnostics=diagnostics)
    diagnostics["problems"] = problems
    diagnostics["next"] = f"python3 -m json.tool {quoted(str(path))}"
    return Verdict(passed=False, detail=problems[0], diagnostics=diagnostics)


KIND = GateKind(name="json", options=JsonOptions, check=_check)
