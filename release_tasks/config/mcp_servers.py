"""Which MCP servers a configuration names, in each of the shapes found in the wild, and what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from release_tasks.core.canonical import InvalidDocument

__all__ = ["McpServer", "fill_variables", "parse_servers"]

_SHAPES = (
    "a map 'mcpServers', a map 'servers' or a list 'servers', "
    'such as {"mcpServers": {"files": {"command": "npx", "args": ["..."]}}}'
)
_OVER_HTTP = {"http", "sse", "streamable-http", "streamablehttp", "streamable_http", "ws"}
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)\}")


@frozen(kw_only=True)
class McpServer:
    """One configured server: a ``command`` with ``args`` to talk to over stdio, or a ``url``, or neither.

    What is of the wrong form is left out, and a problem says so. Problems are the ends of sentences that begin with
    "server 'ID'". ``url`` and ``command`` are as written, with their variables.
    """

    id: str
    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(factory=dict, repr=False)  # tokens are usual here
    cwd: str | None = None
    url: str | None = None
    is_disabled: bool = False
    url_problems: tuple[str, ...] = ()
    command_problems: tuple[str, ...] = ()


def parse_servers(value: Any, name: str) -> tuple[list[McpServer], list[str]]:
    """Return the servers that a JSON value names, in order, and what is wrong with the list of them.

    ``name`` is what the file is called in messages. Raises InvalidDocument when it has none of the known shapes.
    """
    if not isinstance(value, dict):
        raise InvalidDocument(f"{name} should hold a JSON object with {_SHAPES}")
    key = next((key for key in ("mcpServers", "servers") if key in value), None)
    if key is None:
        raise InvalidDocument(f"{name} names no MCP servers: expected {_SHAPES}")
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
        raise InvalidDocument(f"{name}: {key!r} is of no known form: expected {_SHAPES}")
    return [_server(identifier, entry) for identifier, entry in entries.items()], problems


def fill_variables(text: str, environment: Mapping[str, str]) -> str:
    """Fill in ``${NAME}`` and ``${env:NAME}``, as MCP clients do; an unknown one stays."""
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), text)


def _server(identifier: str, entry: Any) -> McpServer:
    if not isinstance(entry, dict):
        return McpServer(id=identifier, name=identifier, command_problems=("is not a JSON object",))
    transport = entry.get("type", entry.get("transport"))
    if isinstance(transport, dict):  # some gateways nest it
        transport = transport.get("type")
    is_remote = isinstance(transport, str) and transport.lower() in _OVER_HTTP
    url, command = entry.get("url", entry.get("serverUrl")), entry.get("command")
    args, env = entry.get("args", []), entry.get("env")
    program: Any
    program, *first = command if isinstance(command, list) and command else [command]
    url_problems, command_problems = [], []

    if url is not None and not _is_address(url):
        url_problems.append(f"has a url that is not http:// or https://: {str(url)[:200]!r}")
    elif url is None and is_remote:
        url_problems.append(f"is reached over {transport}, but has no url")

    if command is None:
        if not is_remote and (url is None or transport == "stdio"):
            command_problems.append("has no command" if transport == "stdio" else "has neither a command nor a url")
    elif not isinstance(program, str) or not program.strip():
        command_problems.append("has an empty command" if program in ("", []) else "has a command that is not text")
        program = None
    else:
        if not isinstance(args, list) or not _are_texts(args):
            command_problems.append("has args that are not a list of texts")
            args = []
        if env is not None and not (isinstance(env, dict) and _are_texts(env.values())):
            command_problems.append("has an env that is not a map of texts")
    return McpServer(
        id=identifier,
        name=entry["name"] if isinstance(entry.get("name"), str) else identifier,
        command=program,
        args=(*map(str, first), *args) if program else (),
        env=env if isinstance(env, dict) and _are_texts(env.values()) else {},
        cwd=entry["cwd"] if isinstance(entry.get("cwd"), str) else None,
        url=None if url is None else str(url),
        is_disabled=entry.get("disabled") is True or entry.get("enabled") is False,
        url_problems=tuple(url_problems),
        command_problems=tuple(command_problems),
    )


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_address(url: Any) -> bool:
    """Say whether it is an http(s) URL, or has a variable that only the service itself knows."""
    if not isinstance(url, str):
        return False
    filled = fill_variables(url, os.environ)
    try:
        parts = urlsplit(filled)
        is_web = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        is_web = False
    return is_web or _VARIABLE.search(filled) is not None
