"""Reader of MCP configurations: where each host keeps its servers, and the problems that a host has with an entry.

A host is the program that starts MCP servers. What each accepts, and where its documentation says so, is the table in
docs/mcp.md. One file may be for several hosts, so an entry is right when it is right for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.json_file import read_json

__all__ = ["McpFile", "McpServer", "parse_servers", "read_mcp_file"]

_SECTIONS = (
    ("mcpServers",),
    ("servers",),
    ("context_servers",),  # Zed
    ("amp", "mcpServers"),  # the settings of Amp
    ("mcp", "servers"),  # the settings of VS Code
    ("settings", "mcp", "servers"),  # a workspace file of VS Code
    ("customizations", "vscode", "mcp", "servers"),  # a development container
    ("mcp",),  # opencode
)
_FORMATS = (
    "a map 'mcpServers', a map 'servers' or a list 'servers', or 'context_servers', 'mcp' or 'amp.mcpServers', "
    'such as {"mcpServers": {"files": {"command": "npx", "args": ["..."]}}}'
)
_SETTINGS_OF_MCP = {"servers", "inputs", "allowed", "excluded", "serverCommand"}
_LOCAL = {"stdio", "local"}
_REMOTE = {
    "http",
    "remote",
    "sse",
    "streamable-http",
    "streamable_http",
    "streamablehttp",
    "websocket",
    "ws",
}
_URL_KEYS = ("httpUrl", "url", "serverUrl")  # Gemini CLI prefers the first; Windsurf has the last
_FOLDER_KEYS = ("cwd", "workingDirectory", "working_directory")


@frozen(kw_only=True)
class McpServer:
    """One configured server: a ``command`` for stdio or a ``url``; neither when its host supplies it by other means.

    A server with a problem has neither. A problem is the end of a sentence that starts with "server 'ID'". Each text
    may contain variables. An ``env`` value of None removes the variable.
    """

    id: str
    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(factory=dict, repr=False)  # often contains tokens
    env_file: str | None = None
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str | None] = field(factory=dict, repr=False)
    is_disabled: bool = False
    problems: tuple[str, ...] = ()


@frozen(kw_only=True)
class McpFile:
    """The servers of one file, in order, and the problems of the file itself, which are whole sentences."""

    servers: list[McpServer]
    problems: list[str]


def read_mcp_file(path: Path, name: str, project: Path) -> McpFile:
    """Read the servers in ``path``, called ``name`` in messages, of the project in the folder ``project``.

    Raises InvalidDocument when the file cannot be read, is not JSON with or without comments, or names no servers.
    """
    document = read_json(path, name, with_comments=True)
    file = parse_servers(document.value, name, project)
    return McpFile(
        servers=file.servers, problems=[f"{name}: duplicate key {key!r}" for key in document.duplicates] + file.problems
    )


def parse_servers(value: Any, name: str, project: Path) -> McpFile:
    """Return the servers in a parsed document. Raises InvalidDocument when it has no section that a host knows."""
    if not isinstance(value, dict):
        raise InvalidDocument(f"{name}: expected a JSON object with {_FORMATS}")
    sections = dict(_sections(value, project))
    if not sections and not isinstance(value.get("projects"), dict):
        raise InvalidDocument(f"{name} names no MCP servers: expected {_FORMATS}")
    servers: dict[str, McpServer] = {}
    problems: list[str] = []
    is_left_out = _left_out(value)
    for label, section in sections.items():
        for identifier, entry in _entries(section, label, name, problems):
            server = _server(identifier, entry, is_known_to_host=label == "mcp")
            if is_left_out(identifier):
                server = evolve(server, is_disabled=True)
            if servers.get(identifier, server) != server:  # another host's server of the same name
                server = evolve(server, id=f"{label}.{identifier}")
            servers[server.id] = server
    return McpFile(servers=list(servers.values()), problems=problems)


def _sections(document: dict[str, Any], project: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the content of each section with servers."""
    for keys in _SECTIONS:
        section = _at(document, keys)
        if section is None or (keys == ("mcp",) and not _is_of_opencode(section)):
            continue
        if keys[-1] == "servers" and len(keys) > 1 and _is_entry(section):
            continue  # a server of opencode that is called "servers"
        yield ".".join(keys), section
    # Claude Code keeps a user's servers for one project below the path of its folder.
    local = _at(document, ("projects", str(project), "mcpServers"))
    if local is not None:
        yield f"projects.{project}", local


def _at(value: Any, keys: tuple[str, ...]) -> Any:
    """Return the value at ``keys``: nested, or under one key with dots, as editors write their settings."""
    if not keys:
        return value
    if not isinstance(value, dict):
        return None
    for count in range(len(keys), 0, -1):
        found = value.get(".".join(keys[:count]))
        if found is not None:
            return _at(found, keys[count:])
    return None


def _is_of_opencode(section: Any) -> bool:
    """Return whether ``mcp`` is a map of servers, and not the settings of VS Code or Gemini CLI of the same name."""
    return isinstance(section, dict) and not any(
        key in _SETTINGS_OF_MCP and not _is_entry(value) for key, value in section.items()
    )


def _is_entry(value: Any) -> bool:
    keys = ("type", "command", "url")
    return isinstance(value, dict) and any(isinstance(value.get(key), (str, list)) for key in keys)


def _left_out(document: dict[str, Any]) -> Callable[[str], bool]:
    """Return whether Gemini CLI leaves out the server of a name: only some are allowed, or it is excluded."""
    allowed = _names(_at(document, ("mcp", "allowed")) or document.get("allowMCPServers"))
    excluded = _names(_at(document, ("mcp", "excluded")) or document.get("excludeMCPServers"))
    return lambda name: name in excluded or (bool(allowed) and name not in allowed)


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _entries(section: Any, label: str, name: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the id and the entry of each server in a section; add what is wrong with the section to ``problems``."""
    if isinstance(section, dict):
        yield from section.items()
        return
    if not isinstance(section, list):
        raise InvalidDocument(f"{name}: {label!r} has an unknown format: expected {_FORMATS}")
    seen = set()
    for number, entry in enumerate(section, 1):
        names = [entry.get("id"), entry.get("name")] if isinstance(entry, dict) else []
        identifier = next((text for text in names if isinstance(text, str) and text.strip()), None)
        if identifier is None:
            problems.append(f"{name}: entry {number} of {label!r} has neither an id nor a name")
        elif identifier in seen:
            problems.append(f"{name}: two servers have the id {identifier!r}")
        else:
            seen.add(identifier)
            yield identifier, entry


def _server(identifier: str, entry: Any, *, is_known_to_host: bool) -> McpServer:
    """Return the server of an entry. ``is_known_to_host``: an entry that only says ``enabled`` is right."""
    if not isinstance(entry, dict):
        return McpServer(id=identifier, name=identifier, problems=("is not a JSON object",))
    entry = _flattened(entry)
    server = McpServer(
        id=identifier,
        name=entry["name"] if isinstance(entry.get("name"), str) else identifier,
        is_disabled=entry.get("disabled") is True or entry.get("enabled") is False,
    )
    transport = entry.get("type", entry.get("transport"))
    word = transport.lower() if isinstance(transport, str) else None
    url = next((entry[key] for key in _URL_KEYS if entry.get(key) is not None), None)
    try:
        if word in _REMOTE:
            return evolve(server, **_remote(url, entry, transport))
        if word in _LOCAL or entry.get("command") is not None:
            return evolve(server, **_local(entry))
        if url is not None:
            return evolve(server, **_remote(url, entry, transport))
        # Zed starts the servers of its extensions, and opencode those of an organisation.
        if entry.get("source") == "extension" or "settings" in entry or (is_known_to_host and "enabled" in entry):
            return server
        raise _Problem("has neither a command nor a url")
    except _Problem as problem:
        return evolve(server, problems=(str(problem),))


class _Problem(Exception):
    """An entry that no host accepts; the message is the end of a sentence."""


def _flattened(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry with the keys of a nested ``transport`` or ``command`` moved out of it."""
    for key, inner in (("transport", "type"), ("command", "path")):
        nested = entry.get(key)
        if isinstance(nested, dict):
            rest = {name: value for name, value in nested.items() if name != inner}
            entry = {**entry, **rest, key: nested.get(inner)}
    return entry


def _local(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a server that its host starts. Raises _Problem."""
    command, args = entry.get("command"), entry.get("args")
    if command is None:
        raise _Problem("has no command")
    program, *first = command if isinstance(command, list) and command else [command]
    if not isinstance(program, str) or not program.strip():
        raise _Problem("has an empty command" if program in ("", []) else "has a command that is not a string")
    args = [*first, *([] if args is None else args)] if isinstance(args, (list, type(None))) else None
    if args is None or not all(isinstance(argument, str) for argument in args):
        raise _Problem("has args that are not a list of strings")
    env = _texts(entry.get("env", entry.get("environment")), "has an env that is not a map of strings")
    invalid = next((name for name in env if not name or "=" in name), None)
    if invalid is not None:
        raise _Problem(f"has an env with the invalid name {invalid!r}")
    if any("\0" in text for text in [program, *args, *env, *filter(None, env.values())]):
        raise _Problem("has a null character in its command, args or env")
    return {
        "command": program,
        "args": tuple(args),
        "env": env,
        "env_file": _text(entry, "envFile"),
        "cwd": next((text for key in _FOLDER_KEYS if (text := _text(entry, key)) is not None), None),
    }


def _remote(url: Any, entry: dict[str, Any], transport: Any) -> dict[str, Any]:
    """Return the fields of a server that runs elsewhere. Raises _Problem."""
    if url is None:
        raise _Problem(f"has the transport {transport}, but no url")
    if not isinstance(url, str):
        raise _Problem(f"has a url that is not a string: {excerpt_line(str(url))}")
    if not url.strip():
        raise _Problem("has an empty url")
    return {"url": url, "headers": _texts(entry.get("headers"), "has headers that are not a map of strings")}


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise _Problem(f"has a {key} that is not a string")
    return value


def _texts(value: Any, problem: str) -> dict[str, str | None]:
    """Return a map of texts. Hosts write a number or a truth value as JavaScript does, and null removes the key."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Problem(problem)
    return {key: _as_javascript(item, problem) for key, item in value.items()}


def _as_javascript(value: Any, problem: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) else repr(value)
    raise _Problem(problem)
