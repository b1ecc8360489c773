"""Which MCP servers a config file names, in each of the shapes found in the wild."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import field, frozen

from release_tasks.gateway.errors import SettingsError
from release_tasks.gateway.settings import read_json_object

__all__ = ["McpServer", "parse_mcp_config", "read_mcp_config"]


@frozen
class McpServer:
    """One configured server: a ``command`` to talk to over stdio, or a ``url``."""

    id: str
    name: str
    command: tuple[str, ...] = ()
    url: str | None = None
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # tokens are usual here
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str | None = None
    is_disabled: bool = False


def read_mcp_config(path: Path) -> list[McpServer]:
    """Read the servers that ``path`` names; raises SettingsError."""
    return parse_mcp_config(read_json_object(path), path.name)


def parse_mcp_config(config: dict[str, Any], source: str) -> list[McpServer]:
    """Return the servers of a ``mcpServers`` or ``servers`` map or a ``servers`` list, in order.

    Raises SettingsError, naming ``source`` and the entry.
    """
    for key in ("mcpServers", "servers"):
        if key in config:
            return _parse_servers(config[key], f"{source}: {key}")
    raise SettingsError(f"{source}: neither 'mcpServers' nor 'servers' is there")


def _parse_servers(section: Any, where: str) -> list[McpServer]:
    entries: list[tuple[str, Any]]
    if isinstance(section, dict):
        entries = list(section.items())
    elif isinstance(section, list):
        entries = [(_id_of(entry, f"{where}[{index}]"), entry) for index, entry in enumerate(section)]
    else:
        raise SettingsError(f"{where} must be an object or a list")
    servers: dict[str, McpServer] = {}
    for server_id, entry in entries:
        if server_id in servers:
            raise SettingsError(f"{where}: the id '{server_id}' is there twice")
        servers[server_id] = _parse_server(server_id, entry, f"{where}.{server_id}")
    return list(servers.values())


def _id_of(entry: Any, where: str) -> str:
    if isinstance(entry, dict):
        for key in ("id", "name"):
            if isinstance(entry.get(key), str) and entry[key]:
                return str(entry[key])
    raise SettingsError(f"{where} must be an object with an id")


def _parse_server(server_id: str, entry: Any, where: str) -> McpServer:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} must be an object")
    command, url = entry.get("command"), entry.get("url")
    arguments = entry.get("args", [])
    if command is not None and not (isinstance(command, str) and command):
        raise SettingsError(f"{where}.command must be a non-empty string")
    if not isinstance(arguments, list) or not all(isinstance(item, str) for item in arguments):
        raise SettingsError(f"{where}.args must be a list of strings")
    if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
        raise SettingsError(f"{where}.url must be an http(s) URL")
    if command is None and url is None:
        raise SettingsError(f"{where} has neither a command nor a url")
    cwd = entry.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise SettingsError(f"{where}.cwd must be a string")
    return McpServer(
        id=server_id,
        name=entry["name"] if isinstance(entry.get("name"), str) else server_id,
        command=(command, *arguments) if command is not None else (),
        url=url if command is None else None,
        env=_pairs(entry, "env", where),
        headers=_pairs(entry, "headers", where),
        cwd=cwd,
        is_disabled=entry.get("disabled") is True or entry.get("enabled") is False,
    )


def _pairs(entry: dict[str, Any], key: str, where: str) -> tuple[tuple[str, str], ...]:
    pairs = entry.get(key, {})
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise SettingsError(f"{where}.{key} must be an object of strings")
    return tuple(pairs.items())
