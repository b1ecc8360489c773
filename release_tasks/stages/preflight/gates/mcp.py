"""MCP gates: every server of an MCP configuration must be startable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from attrs import NOTHING, frozen

from release_tasks.config.mcp_launch import McpHost, launch_of
from release_tasks.config.mcp_servers import read_mcp_file
from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.options import option
from release_tasks.core.typed import typed
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path

__all__ = ["KIND", "McpOptions"]


@frozen(kw_only=True)
class McpOptions:
    """The key of an MCP gate."""

    mcp: Path = option("an MCP configuration; each server in it must be startable", NOTHING)


def _check(context: GateContext) -> Verdict:
    """Check that every enabled server of the gate's file could be started."""
    path: Path = context.config.options.mcp
    name = shown_path(path, context.settings)
    diagnostics: dict[str, Any] = {"path": str(path)}
    try:
        file = read_mcp_file(path, name, context.project)
    except InvalidDocument as error:
        return _failed(context, [str(error)], diagnostics)
    enabled = [server for server in file.servers if not server.is_disabled]
    diagnostics["servers"] = [server.id for server in enabled]
    host = McpHost(environment=os.environ, project=context.project, config_folder=path.parent)
    launches = {server.id: launch_of(server, host) for server in enabled}
    problems = file.problems + [
        f"{name}: server {identifier!r} {problem}"
        for identifier, launch in launches.items()
        for problem in launch.problems
    ]
    if problems:
        return _failed(context, problems, diagnostics)
    if not file.servers:
        return Verdict(passed=True, detail=f"{name}: no servers configured", diagnostics=diagnostics)
    detail = f"{name}: {len(enabled)} server{'' if len(enabled) == 1 else 's'} can be started"
    disabled = len(file.servers) - len(enabled)
    detail += f", {disabled} disabled" if disabled else ""
    unset = list(dict.fromkeys(variable for launch in launches.values() for variable in launch.unset))
    if unset:
        diagnostics["unset"] = unset
        detail += f", if the service has values for: {excerpt_line(', '.join(unset))}"
    return Verdict(passed=True, detail=detail, diagnostics=diagnostics)


def _failed(context: GateContext, problems: list[str], diagnostics: dict[str, Any]) -> Verdict:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    diagnostics = {**diagnostics, "problems": problems, "next": typed("gate.run", context.name)}
    return Verdict(passed=False, detail=problems[0] + more, diagnostics=diagnostics)


KIND = GateKind(name="mcp", options=McpOptions, check=_check)
