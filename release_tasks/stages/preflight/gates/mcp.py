"""MCP gates: every server of an MCP configuration must be startable."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from attrs import NOTHING, frozen

from release_tasks.config.mcp_servers import McpServer, expand_variables, parse_servers
from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.options import option
from release_tasks.core.process.command import search_path
from release_tasks.core.typed import typed
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path
from release_tasks.stages.preflight.gates.json_file import read_json

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
        document = read_json(path, name)
        servers, problems = parse_servers(document.value, name)
    except InvalidDocument as error:
        diagnostics |= {"problems": [str(error)], "next": f"python3 -m json.tool {shlex.quote(str(path))}"}
        return Verdict(passed=False, detail=str(error), diagnostics=diagnostics)
    problems = [f"{name}: duplicate key {key!r}" for key in document.duplicates] + problems
    enabled = [server for server in servers if not server.is_disabled]
    for server in enabled:
        server_problems = [
            *server.url_problems,
            *server.command_problems,
            *_start_problems(server, context.project, path.parent),
        ]
        problems += [f"{name}: server {server.id!r} {problem}" for problem in server_problems]
    diagnostics["servers"] = [server.id for server in enabled]
    if problems:
        diagnostics |= {"problems": problems, "next": typed("gate.run", context.name)}
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Verdict(passed=False, detail=problems[0] + more, diagnostics=diagnostics)
    if not servers:
        return Verdict(passed=True, detail=f"{name}: no servers configured", diagnostics=diagnostics)
    detail = f"{name}: {len(enabled)} server{'' if len(enabled) == 1 else 's'} can be started"
    disabled = len(servers) - len(enabled)
    detail += f", {disabled} disabled" if disabled else ""
    return Verdict(passed=True, detail=detail, diagnostics=diagnostics)


def _start_problems(server: McpServer, project: Path, config_folder: Path) -> list[str]:
    """Return the reasons why the server's program cannot be started in ``project`` or in ``config_folder``."""
    if server.command is None:
        return []
    environment = {**os.environ, **server.env}
    program = os.path.expanduser(expand_variables(server.command, environment))
    if "${" in program:  # a variable that is set only in the environment of the service
        return []
    if "/" not in program:
        is_found = shutil.which(program, path=search_path(environment)) is not None
        return [] if is_found else [f"has a command that is not on PATH: {program!r}"]
    folders = [project, config_folder]
    if server.cwd is not None:
        folders.insert(0, project / server.cwd)
    found = [folder / program for folder in folders if (folder / program).is_file()]
    if not found:
        return [f"has a command that does not exist: {program!r}"]
    is_executable = any(os.access(file, os.X_OK) for file in found)
    return [] if is_executable else [f"has a command that is not executable: {program!r}"]


KIND = GateKind(name="mcp", options=McpOptions, check=_check)
