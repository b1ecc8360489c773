"""What a host does with one MCP server: fill in variables, find the program, and the reasons why it cannot be started.

The MCP gates and the embedded gateway both ask here, so both give the same answer in the same words.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from release_tasks.config.mcp_servers import McpServer
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.process.command import search_path
from release_tasks.core.regular import read_regular
from release_tasks.core.url import shown_url

__all__ = ["McpHost", "McpLaunch", "launch_of"]

_SCHEMES = ("http", "https", "ws", "wss")
_SOCKET_SCHEMES = ("unix", "pipe")  # VS Code reaches a server over a local socket
# ${NAME}, ${env:NAME}, ${NAME:-default}, ${input:id} and the like; {env:NAME} and {file:path} of opencode
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}|\{((?:env|file):[^{}]*)\}")
_BARE = re.compile(r"\$([A-Za-z_]\w*)")  # Gemini CLI
_NAME = re.compile(r"[A-Za-z_]\w*")
_FILLED = "1"  # stands for a value that only the host knows, also where a port is expected


@frozen(kw_only=True)
class McpHost:
    """The surroundings of a host: its environment, the project folder, and the folder of its configuration file."""

    environment: Mapping[str, str]
    project: Path
    config_folder: Path

    @property
    def workspace(self) -> Path:
        """The folder that the host has open: a configuration in a folder such as ``.vscode`` is for the one above."""
        folder = self.config_folder
        is_hidden = folder.name.startswith(".") and folder != self.project
        return folder.parent if is_hidden and folder.parent != Path(os.path.expanduser("~")) else self.project


@frozen(kw_only=True)
class McpLaunch:
    """How a server is started: a ``program`` with ``args`` and its ``environment`` in ``cwd``, or a ``url``.

    A problem is the end of a sentence that starts with "server 'ID'". ``unset`` names the variables that have no value
    in this environment, and the inputs that a host asks its user for; a text that needs one is not checked.
    """

    program: str | None = None
    args: tuple[str, ...] = ()
    environment: Mapping[str, str]
    cwd: Path
    url: str | None = None
    problems: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def launch_of(server: McpServer, host: McpHost) -> McpLaunch:
    """Return how ``host`` starts ``server``; raises nothing."""
    texts = _Texts(host, server)
    environment = texts.environment
    cwd, problems = host.workspace, list(server.problems)
    is_cwd_known = True
    if server.cwd is not None:
        folder = texts.fill(server.cwd)
        is_cwd_known = folder is not None
        if folder is not None:
            cwd = host.workspace / os.path.expanduser(folder)
            problems += _folder_problems(cwd, folder)
    program = None
    if server.command is not None and not problems:
        command = texts.fill(server.command)
        problems += _env_file_problems(server, texts, host)
        if command is not None:
            folders = [cwd] if server.cwd is not None else [host.workspace, host.project, host.config_folder]
            program, reason = _find(os.path.expanduser(command), environment, folders if is_cwd_known else [])
            problems += [reason] if reason is not None else []
    url = None
    if server.url is not None:
        url = texts.fill(server.url)
        problems += _url_problems(texts.filled_with(server.url, _FILLED), server.url)
    args = tuple(texts.argument(argument) for argument in server.args)
    for header in server.headers.values():
        texts.fill(header or "")
    return McpLaunch(
        program=program,
        args=args,
        environment=environment,
        cwd=cwd,
        url=url,
        problems=tuple(problems),
        unset=tuple(dict.fromkeys(texts.unset)),
    )


class _Texts:
    """The texts of one server with its variables filled in; ``unset`` collects those that have no value."""

    def __init__(self, host: McpHost, server: McpServer) -> None:
        self.unset: list[str] = []
        workspace = str(host.workspace)
        self._values: dict[str, str] = {
            "workspaceFolder": workspace,
            "workspaceRoot": workspace,
            "workspaceFolderBasename": host.workspace.name,
            "cwd": workspace,
            "userHome": os.path.expanduser("~"),
            "pathSeparator": os.sep,
            "/": os.sep,
        }
        self.environment = dict(host.environment)
        for name, text in server.env.items():
            if text is None:
                self.environment.pop(name, None)
            else:
                # Two passes would fill in what a value happens to contain, so each is filled in from the host's.
                self.environment[name] = self._replaced(text, host.environment, bare=True)

    def fill(self, text: str) -> str | None:
        """Return ``text`` with every variable filled in, or None when one has no value here."""
        before = len(self.unset)
        filled = self._replaced(text, self.environment, bare=True)
        return filled if len(self.unset) == before else None

    def argument(self, text: str) -> str:
        """Return an argument: a variable without a value stays, and ``$NAME`` may belong to a script."""
        return self._replaced(text, self.environment, bare=False)

    def filled_with(self, text: str, stand_in: str) -> str | None:
        """Return ``text`` with ``stand_in`` for each variable that has no value, or None if it begins so."""
        marker = "\0"
        filled = self._replaced(text, self.environment, bare=True, stand_in=marker)
        return None if filled.startswith(marker) else filled.replace(marker, stand_in)

    def _replaced(self, text: str, environment: Mapping[str, str], *, bare: bool, stand_in: str | None = None) -> str:
        def value(match: re.Match[str]) -> str:
            inner = match[1] if match[1] is not None else match[2]
            found = self._value(inner, environment)
            if found is not None:
                return found
            self.unset.append(inner.partition(":")[2] if inner.startswith("env:") else inner)
            return match[0] if stand_in is None else stand_in

        filled = _PLACEHOLDER.sub(value, text)
        if bare:
            filled = _BARE.sub(lambda match: environment.get(match[1], match[0]), filled)
        return filled

    def _value(self, inner: str, environment: Mapping[str, str]) -> str | None:
        if inner in self._values:
            return self._values[inner]
        if inner.startswith("env:"):
            return environment.get(inner[4:])
        name, has_default, default = inner.partition(":-")
        if has_default and _NAME.fullmatch(name):
            return environment.get(name, default)
        return environment.get(name) if _NAME.fullmatch(inner) else None


def _folder_problems(folder: Path, text: str) -> list[str]:
    if os.path.isdir(folder):
        return []
    what = "is not a folder" if os.path.exists(folder) else "does not exist"
    return [f"has a cwd that {what}: {text!r}"]


def _env_file_problems(server: McpServer, texts: _Texts, host: McpHost) -> list[str]:
    path = None if server.env_file is None else texts.fill(server.env_file)
    if path is None or os.path.isfile(host.workspace / os.path.expanduser(path)):
        return []
    return [f"has an envFile that does not exist: {path!r}"]


def _find(program: str, environment: Mapping[str, str], folders: list[Path]) -> tuple[str | None, str | None]:
    """Return the path of a program, or the reason why it cannot be started; neither when its folder is unknown."""
    if not program.strip():  # from a variable that is empty
        return None, "has an empty command"
    if os.sep not in program:
        found = _which(program, environment)
        if found is None:
            return None, _not_on_path(program, environment)
        return found, _interpreter_problem(found, environment)
    if not os.path.isabs(program) and not folders:
        return None, None
    paths = list(dict.fromkeys(os.path.normpath(os.path.join(folder, program)) for folder in folders or [Path("/")]))
    files = [path for path in paths if os.path.isfile(path)]
    if not files:
        is_folder = any(os.path.isdir(path) for path in paths)
        return None, f"has a command that {'is a folder' if is_folder else 'does not exist'}: {program!r}"
    runnable = next((file for file in files if os.access(file, os.X_OK)), None)
    if runnable is None:
        return None, f"has a command that is not executable: {program!r}"
    return runnable, _interpreter_problem(runnable, environment)


def _which(program: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(program, path=search_path(environment))


def _not_on_path(program: str, environment: Mapping[str, str]) -> str:
    first, *rest = program.split()
    if rest and _which(first, environment) is not None:
        return f"has arguments in its command, which belong into args: {program!r}"
    return f"has a command that is not on PATH: {program!r}"


def _interpreter_problem(path: str, environment: Mapping[str, str]) -> str | None:
    """Return a problem when a script names an interpreter that does not exist, because then it cannot be executed."""
    try:
        line = read_regular(Path(path), 256).partition(b"\n")[0]
    except OSError:  # executable, but not readable
        return None
    interpreter, *rest = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else [""]
    if interpreter and not os.path.exists(interpreter):
        return f"has a command whose interpreter does not exist: {interpreter!r}, named in {path}"
    if os.path.basename(interpreter) == "env" and len(rest) == 1 and _which(rest[0], environment) is None:
        return f"has a command whose interpreter is not on PATH: {rest[0]!r}, named in {path}"
    return None


def _url_problems(url: str | None, configured: str) -> list[str]:
    """Return what is wrong with a URL; nothing when its beginning is not known."""
    if url is None:
        return []
    if not url.strip():  # from a variable that is empty
        return ["has an empty url"]
    # A password or a token in it must not get into a message, and so its variables are not filled in.
    shown = repr(excerpt_line(shown_url(configured.partition("?")[0])))
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        return [f"has a url that is not valid ({error}): {shown}"]
    if scheme in _SOCKET_SCHEMES and parts.path:
        return []
    if scheme not in _SCHEMES:
        return [f"has a url that is not http://, https://, ws:// or wss://: {shown}"]
    if not host or any(character.isspace() for character in parts.netloc):
        return [f"has a url without a host name: {shown}"]
    return [f"has a url with the port 0: {shown}"] if port == 0 else []
