"""Gates that ask for an MCP configuration whose servers could be started."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import NOTHING, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.environment import search_path
from release_tasks.core.options import option
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path
from release_tasks.stages.preflight.gates.json_file import Document, read_json

__all__ = ["KIND", "McpOptions"]

_SHAPES = (
    "a map 'mcpServers', a map 'servers' or a list 'servers', "
    'such as {"mcpServers": {"files": {"command": "npx", "args": ["..."]}}}'
)
_OVER_HTTP = {"http", "sse", "streamable-http", "streamablehttp", "streamable_http", "ws"}
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)\}")

Server = tuple[str, Any]


@frozen(kw_only=True)
class McpOptions:
    """The key of an MCP gate."""

    mcp: Path = option("an MCP configuration whose servers must be startable", NOTHING)


def _check(context: GateContext) -> Verdict:
    """Look whether every enabled server of the gate's file has what it takes to be started."""
    path: Path = context.config.options.mcp
    name = shown_path(path, context.settings)
    diagnostics: dict[str, Any] = {"path": str(path)}
    try:
        document = read_json(path, name)
        servers, problems = _servers(document, name)
    except InvalidDocument as error:
        diagnostics |= {
            "problems": [str(error)],
            "next": f"python3 -m json.tool {shlex.quote(str(path))}",
        }
        return Verdict(passed=False, detail=str(error), diagnostics=diagnostics)
    enabled = [server for server in servers if not _is_disabled(server[1])]
    folders = [context.settings.project, path.parent]
    for identifier, server in enabled:
        problems += [f"{name}: server {identifier!r} {p}" for p in _problems(server, folders)]
    diagnostics["servers"] = [identifier for identifier, _ in enabled]
    if problems:
        diagnostics |= {"problems": problems, "next": f"inv gate.run {context.name}"}
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Verdict(passed=False, detail=problems[0] + more, diagnostics=diagnostics)
    return Verdict(passed=True, detail=_summary(name, servers, len(enabled)), diagnostics=diagnostics)


def _summary(name: str, servers: list[Server], enabled: int) -> str:
    if not servers:
        return f"{name}: no servers configured"
    disabled = len(servers) - enabled
    ready = f"{name}: {enabled} server{'' if enabled == 1 else 's'} can be started"
    return f"{ready}, {disabled} disabled" if disabled else ready


def _servers(document: Document, name: str) -> tuple[list[Server], list[str]]:
    """Return the (id, server) pairs of every shape in the wild, and what is wrong with the list."""
    root = document.value
    problems = [f"{name}: {key!r} stands twice" for key in document.duplicates]
    if not isinstance(root, dict):
        raise InvalidDocument(f"{name} should hold a JSON object with {_SHAPES}")
    key = next((key for key in ("mcpServers", "servers") if key in root), None)
    if key is None:
        raise InvalidDocument(f"{name} names no MCP servers: expected {_SHAPES}")
    section = root[key]
    if isinstance(section, dict):
        return list(section.items()), problems
    if not isinstance(section, list):
        raise InvalidDocument(f"{name}: {key!r} is of no known form: expected {_SHAPES}")
    servers: dict[str, Any] = {}
    for number, entry in enumerate(section, 1):
        identifier = _identifier(entry)
        if identifier is None:
            problems.append(f"{name}: entry {number} of {key!r} has neither an id nor a name")
        elif identifier in servers:
            problems.append(f"{name}: two servers have the id {identifier!r}")
        else:
            servers[identifier] = entry
    return list(servers.items()), problems


def _identifier(entry: Any) -> str | None:
    if isinstance(entry, dict):
        for key in ("id", "name"):
            if isinstance(entry.get(key), str) and entry[key].strip():
                return str(entry[key])
    return None


def _is_disabled(server: Any) -> bool:
    if not isinstance(server, dict):
        return False
    return server.get("disabled") is True or server.get("enabled") is False


def _problems(server: Any, folders: list[Path]) -> Iterator[str]:
    if not isinstance(server, dict):
        yield "is not a JSON object"
        return
    transport = server.get("type", server.get("transport"))
    if isinstance(transport, dict):  # some gateways nest it
        transport = transport.get("type")
    is_remote = isinstance(transport, str) and transport.lower() in _OVER_HTTP
    url, command = server.get("url", server.get("serverUrl")), server.get("command")
    if url is not None:
        yield from _url_problems(url)
    elif is_remote:
        yield f"is reached over {transport}, but has no url"
    if command is not None:
        yield from _command_problems(command, server, folders)
    elif not is_remote and (url is None or transport == "stdio"):
        yield "has no command" if transport == "stdio" else "has neither a command nor a url"


def _url_problems(url: Any) -> Iterator[str]:
    try:
        parts = urlsplit(_filled(url, os.environ)) if isinstance(url, str) else None
        is_web = parts is not None and parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        is_web = False
    if not is_web and not (isinstance(url, str) and _VARIABLE.search(_filled(url, os.environ))):
        yield f"has a url that is not http:// or https://: {str(url)[:200]!r}"


def _command_problems(command: Any, server: dict[str, Any], folders: list[Path]) -> Iterator[str]:
    program = command[0] if isinstance(command, list) and command else command
    if not isinstance(program, str) or not program.strip():
        yield "has an empty command" if program in ("", []) else "has a command that is not text"
        return
    arguments = server.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(item, str) for item in arguments):
        yield "has args that are not a list of texts"
    extra = server.get("env")
    environment = {**os.environ, **(extra if isinstance(extra, dict) else {})}
    if extra is not None and not (isinstance(extra, dict) and all(isinstance(value, str) for value in extra.values())):
        yield "has an env that is not a map of texts"
        environment = dict(os.environ)
    program = os.path.expanduser(_filled(program, environment))
    if "${" in program:  # a variable that only the service itself knows
        return
    if "/" not in program:
        if shutil.which(program, path=search_path(environment)) is None:
            yield f"has a command that is not on PATH: {program!r}"
        return
    cwd = server.get("cwd")
    if isinstance(cwd, str):
        folders = [folders[0] / cwd, *folders]
    found = [folder / program for folder in folders if (folder / program).is_file()]
    if not found:
        yield f"has a command that does not exist: {program!r}"
    elif not any(os.access(file, os.X_OK) for file in found):
        yield f"has a command that is not executable: {program!r}"


def _filled(text: str, environment: Mapping[str, Any]) -> str:
    """Fill in ``${NAME}`` and ``${env:NAME}``, as MCP clients do; an unknown one stays."""
    return _VARIABLE.sub(lambda match: str(environment.get(match[1], match[0])), text)


KIND = GateKind(name="mcp", options=McpOptions, check=_check)
