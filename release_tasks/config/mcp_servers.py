"""Parser of MCP server configurations: the formats that MCP clients use, and the problems found in one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from release_tasks.core.canonical import InvalidDocument

__all__ = ["McpServer", "expand_variables", "parse_servers"]

_FORMATS = (
    "a map 'mcpServers', a map 'servers' or a list 'servers', "
    'such as {"mcpServers": {"files": {"command": "npx", "args": ["..."]}}}'
)
_REMOTE_TRANSPORTS = {"http", "sse", "streamable-http", "streamablehttp", "streamable_http", "ws"}
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)\}")


@frozen(kw_only=True)
class McpServer:
    """One configured server: a ``command`` with ``args`` for stdio, or a ``url``, or neither.

    An invalid value is omitted and a problem reports it. A problem is the end of a sentence that starts with
    "server 'ID'". ``url`` and ``command`` may contain unexpanded variables.
    """

    id: str
    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(factory=dict, repr=False)  # often contains tokens
    cwd: str | None = None
    url: str | None = None
    is_disabled: bool = False
    url_problems: tuple[str, ...] = ()
    command_problems: tuple[str, ...] = ()


def parse_servers(value: Any, name: str) -> tuple[list[McpServer], list[str]]:
    """Return the servers in a parsed JSON document, in order, and the problems of the list itself.

    ``name`` is the file name for messages. Raises InvalidDocument when the document has no known format.
    """
    if not isinstance(value, dict):
        raise InvalidDocument(f"{name}: expected a JSON object with {_FORMATS}")
    key = next((key for key in ("mcpServers", "servers") if key in value), None)
    if key is None:
        raise InvalidDocument(f"{name} names no MCP servers: expected {_FORMATS}")
    section, problems = value[key], []
    if isinstance(section, dict):
        entries = section
    elif isinstance(section, list):
        entries = {}
        for number, entry in enumerate(section, 1):
            names = [entry.get("id"), entry.get("name")] if isinstance(entry, dict) else []
            identifier = next((text for text in names if isinstance(text, str) and text.strip()), None)
            if identifier is None:
                problems.append(f"{name}: entry {number} of {key!r} has neither an id nor a name")
            elif identifier in entries:
                problems.append(f"{name}: two servers have the id {identifier!r}")
            else:
                entries[identifier] = entry
    else:
        raise InvalidDocument(f"{name}: {key!r} has an unknown format: expected {_FORMATS}")
    return [_server(identifier, entry) for identifier, entry in entries.items()], problems


def expand_variables(text: str, environment: Mapping[str, str]) -> str:
    """Expand ``${NAME}`` and ``${env:NAME}``, as MCP clients do; an unknown variable is unchanged."""
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), text)


def _server(identifier: str, entry: Any) -> McpServer:
    if not isinstance(entry, dict):
        return McpServer(id=identifier, name=identifier, command_problems=("is not a JSON object",))
    transport = entry.get("type", entry.get("transport"))
    if isinstance(transport, dict):  # some gateways nest it
        transport = transport.get("type")
    is_remote = isinstance(transport, str) and transport.lower() in _REMOTE_TRANSPORTS
    url, command = entry.get("url", entry.get("serverUrl")), entry.get("command")
    args, env = entry.get("args", []), entry.get("env")
    program: Any
    program, *command_args = command if isinstance(command, list) and command else [command]
    url_problems, command_problems = [], []

    if url is not None and not _is_http_url(url):
        url_problems.append(f"has a url that is not http:// or https://: {str(url)[:200]!r}")
    elif url is None and is_remote:
        url_problems.append(f"has the transport {transport}, but no url")

    if command is None:
        if not is_remote and (url is None or transport == "stdio"):
            command_problems.append("has no command" if transport == "stdio" else "has neither a command nor a url")
    elif not isinstance(program, str) or not program.strip():
        command_problems.append("has an empty command" if program in ("", []) else "has a command that is not a string")
        program = None
    else:
        if not isinstance(args, list) or not _are_strings(args):
            command_problems.append("has args that are not a list of strings")
            args = []
        if env is not None and not (isinstance(env, dict) and _are_strings(env.values())):
            command_problems.append("has an env that is not a map of strings")
    return McpServer(
        id=identifier,
        name=entry["name"] if isinstance(entry.get("name"), str) else identifier,
        command=program,
        args=(*map(str, command_args), *args) if program else (),
        env=env if isinstance(env, dict) and _are_strings(env.values()) else {},
        cwd=entry["cwd"] if isinstance(entry.get("cwd"), str) else None,
        url=None if url is None else str(url),
        is_disabled=entry.get("disabled") is True or entry.get("enabled") is False,
        url_problems=tuple(url_problems),
        command_problems=tuple(command_problems),
    )


def _are_strings(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_http_url(url: Any) -> bool:
    """Return whether ``url`` is an http(s) URL, or contains a variable that only the service can expand."""
    if not isinstance(url, str):
        return False
    expanded = expand_variables(url, os.environ)
    try:
        parts = urlsplit(expanded)
        is_http = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        is_http = False
    return is_http or _VARIABLE.search(expanded) is not None
