"""What each MCP host accepts, by its documentation: the table of docs/mcp.md as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

from release_tasks.config.mcp_launch import McpHost, launch_of
from release_tasks.config.mcp_servers import McpServer, read_mcp_file
from release_tasks.core.canonical import InvalidDocument

PAGE = Path(__file__).parents[2] / "docs/mcp.md"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "TOKEN": "t0ken", "NAME": "sh", "HOST": "mcp.example.com"}


@frozen
class Host:
    """One host: a file of it, and what it starts: a program with arguments, a URL, or None for a disabled server."""

    name: str
    documentation: str
    file: str
    content: str
    starts: dict[str, Any]
    unset: list[str] = field(factory=list)


HOSTS = [
    Host(
        "Claude Desktop",
        "https://modelcontextprotocol.io/docs/develop/connect-local-servers",
        "claude_desktop_config.json",
        """{"globalShortcut": "", "mcpServers": {"files": {"command": "sh", "args": ["-c", "x", "/a b"],
            "env": {"KEY": "k"}}}}""",
        {"files": ["sh", "-c", "x", "/a b"]},
    ),
    Host(
        "Claude Code",
        "https://code.claude.com/docs/en/mcp",
        ".mcp.json",
        """{"mcpServers": {
            "default": {"type": "stdio", "command": "${SERVER:-sh}", "args": ["${TOKEN}", "${MISSING:-a:b}"]},
            "api": {"type": "http", "url": "${BASE:-https://api.example.com}/mcp",
                "headers": {"Authorization": "Bearer ${API_KEY}"}},
            "events": {"type": "sse", "url": "https://${HOST}/sse"},
            "socket": {"type": "ws", "url": "wss://${HOST}:8443/"}}}""",
        {
            "default": ["sh", "t0ken", "a:b"],
            "api": "https://api.example.com/mcp",
            "events": "https://mcp.example.com/sse",
            "socket": "wss://mcp.example.com:8443/",
        },
        unset=["API_KEY"],
    ),
    Host(
        "Claude Code",
        "https://code.claude.com/docs/en/mcp",
        ".claude.json",
        """{"numStartups": 3, "mcpServers": {"user": {"command": "sh", "args": []}},
            "projects": {"PROJECT": {"allowedTools": [], "mcpServers": {"local": {"command": "sh"}}},
                         "/another/project": {"mcpServers": {"other": {"command": "no-such-program"}}}}}""",
        {"user": ["sh"], "local": ["sh"]},
    ),
    Host(
        "VS Code",
        "https://code.visualstudio.com/docs/copilot/reference/mcp-configuration",
        ".vscode/mcp.json",
        """{
            // asked once, then stored
            "inputs": [{"type": "promptString", "id": "key", "description": "Key", "password": true}],
            "servers": {
                "local": {"type": "stdio", "command": "${workspaceFolder}/tools/server", "args": ["${input:key}"],
                    "env": {"KEY": "${input:key}", "PORT": 8080, "PROXY": null}, "envFile": "${workspaceFolder}/.env",
                    "cwd": "${workspaceFolder}/tools",},
                "named": {"command": "${env:NAME}"},
                "asked": {"type": "http", "url": "${input:url}"},
                "there": {"type": "http", "url": "unix:///run/server.sock#/mcp"},
            },
        }""",
        {
            "local": ["PROJECT/tools/server", "${input:key}"],
            "named": ["sh"],
            "asked": None,
            "there": "unix:///run/server.sock#/mcp",
        },
        unset=["input:key", "input:url"],
    ),
    Host(
        "VS Code",
        "https://code.visualstudio.com/docs/copilot/reference/mcp-configuration",
        "settings.json",
        '{"editor.fontSize": 12, "mcp": {"inputs": [], "servers": {"a": {"command": "sh"}}}, /* */ }',
        {"a": ["sh"]},
    ),
    Host(
        "Cursor",
        "https://cursor.com/docs/context/mcp",
        ".cursor/mcp.json",
        """{"mcpServers": {
            "local": {"type": "stdio", "command": "${env:NAME}", "args": ["${userHome}${/}x"], "envFile": ".env"},
            "remote": {"url": "https://${env:HOST}/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"}}}}""",
        {"local": ["sh", "HOME/x"], "remote": "https://mcp.example.com/mcp"},
    ),
    Host(
        "Cline",
        "https://docs.cline.bot/mcp/adding-and-configuring-servers",
        "cline_mcp_settings.json",
        """{"mcpServers": {
            "local": {"command": "sh", "args": ["x"], "env": {"KEY": "k"}, "alwaysAllow": ["a"], "disabled": false},
            "remote": {"type": "streamableHttp", "url": "https://mcp.example.com/", "timeout": 60, "autoApprove": []},
            "off": {"command": "no-such-program", "disabled": true}}}""",
        {"local": ["sh", "x"], "remote": "https://mcp.example.com/", "off": None},
    ),
    Host(
        "Windsurf",
        "https://docs.windsurf.com/windsurf/cascade/mcp",
        "mcp_config.json",
        """{"mcpServers": {
            "remote": {"serverUrl": "https://mcp.example.com/mcp", "headers": {"Authorization": "${env:TOKEN}"}},
            "off": {"serverUrl": "https://mcp.example.com/", "disabled": true}}}""",
        {"remote": "https://mcp.example.com/mcp", "off": None},
    ),
    Host(
        "Gemini CLI",
        "https://geminicli.com/docs/tools/mcp-server",
        ".gemini/settings.json",
        """{"mcp": {"allowed": ["local", "http", "events", "never"], "excluded": ["never"]},
            "mcpServers": {
                "local": {"command": "$NAME", "args": ["x"], "env": {"KEY": "$TOKEN"}, "cwd": "./tools",
                    "timeout": 15000, "trust": false, "includeTools": ["a"]},
                "http": {"httpUrl": "https://mcp.example.com/mcp", "headers": {"X-Retries": 3}},
                // the older transport
                "events": {"url": "http://localhost:8080/sse"},
                "never": {"command": "no-such-program"},
                "unlisted": {"command": "no-such-program"}}}""",
        {
            "local": ["sh", "x"],
            "http": "https://mcp.example.com/mcp",
            "events": "http://localhost:8080/sse",
            "never": None,
            "unlisted": None,
        },
    ),
    Host(
        "Zed",
        "https://zed.dev/docs/ai/mcp",
        "settings.json",
        """{"theme": "One", "context_servers": {
            "local": {"source": "custom", "command": "sh", "args": ["x"], "env": {}},
            "older": {"command": {"path": "sh", "args": ["y"], "env": {"A": "b"}}},
            "remote": {"url": "https://mcp.example.com/", "headers": {"Authorization": "Bearer x"}},
            "extension": {"source": "extension", "enabled": true, "settings": {"key": "x"}},
            "off": {"source": "custom", "enabled": false, "command": "no-such-program"},
        },}""",
        {
            "local": ["sh", "x"],
            "older": ["sh", "y"],
            "remote": "https://mcp.example.com/",
            "extension": None,
            "off": None,
        },
    ),
    Host(
        "opencode",
        "https://opencode.ai/docs/mcp-servers",
        "opencode.jsonc",
        """{"$schema": "https://opencode.ai/config.json", "mcp": {
            "local": {"type": "local", "command": ["sh", "-c", "x"], "environment": {"KEY": "{env:TOKEN}"},
                "enabled": true},
            "remote": {"type": "remote", "url": "https://{env:HOST}/mcp",
                "headers": {"Authorization": "{file:~/.key}"}},
            "organisation": {"enabled": true},
            "off": {"type": "local", "command": ["no-such-program"], "enabled": false}}}""",
        {
            "local": ["sh", "-c", "x"],
            "remote": "https://mcp.example.com/mcp",
            "organisation": None,
            "off": None,
        },
        unset=["file:~/.key"],
    ),
    Host(
        "Amp",
        "https://ampcode.com/manual#configuration",
        "settings.json",
        """{"amp.tools.disable": [], "amp.mcpServers": {
            "local": {"command": "sh", "args": ["-y"]},
            "remote": {"url": "https://${HOST}/sse", "headers": {"Authorization": "Bearer ${TOKEN}"}}}}""",
        {"local": ["sh", "-y"], "remote": "https://mcp.example.com/sse"},
    ),
]
CODEX = ("Codex", "https://developers.openai.com/codex/mcp")


@pytest.mark.parametrize("host", HOSTS, ids=[f"{host.name}-{host.file}" for host in HOSTS])
def test_a_file_of_each_host_is_read_as_the_host_reads_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server has no problem, and what would be started is what the host starts."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tools").mkdir()
    (tmp_path / ".env").write_text("A=b\n")
    (tmp_path / "tools/server").write_text("#!/bin/sh\n")
    (tmp_path / "tools/server").chmod(0o755)
    path = tmp_path / host.file
    path.parent.mkdir(exist_ok=True)
    path.write_text(host.content.replace("PROJECT", str(tmp_path)))
    file = read_mcp_file(path, host.file, tmp_path)
    surroundings = McpHost(environment=ENVIRONMENT, project=tmp_path, config_folder=path.parent)
    launches = {server.id: launch_of(server, surroundings) for server in file.servers if not server.is_disabled}
    assert file.problems == [] and [launch.problems for launch in launches.values() if launch.problems] == []
    names = {"PROJECT": str(tmp_path), "HOME": str(tmp_path / "home")}
    for identifier, expected in host.starts.items():
        launch = launches.get(identifier)
        if launch is None:
            assert next(server for server in file.servers if server.id == identifier).is_disabled
        elif isinstance(expected, list):
            program, *args = [re.sub("PROJECT|HOME", lambda match: names[match[0]], text) for text in expected]
            assert launch.program is not None and launch.program.endswith(f"/{program}".replace("//", "/"))
            assert list(launch.args) == args
        else:
            assert (launch.program, launch.url) == (None, expected)
    assert list(host.starts) == [server.id for server in file.servers]
    assert [name for launch in launches.values() for name in launch.unset] == host.unset


def test_the_page_lists_the_same_hosts() -> None:
    """Each host with the address of its documentation, in the same order."""
    rows = re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\)", PAGE.read_text(), re.MULTILINE)
    assert rows == [*dict.fromkeys((host.name, host.documentation) for host in HOSTS), CODEX]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.toml", '[mcp_servers.a]\ncommand = "sh"\n', "config.toml is TOML, which is not read"),
        ("mcp.json", '[mcp_servers.a]\ncommand = "sh"\n', "mcp.json is TOML, which is not read"),
        ("mcp.json5", "{mcpServers: {a: {command: 'sh'}}}", "mcp.json5 is JSON5, which is not read"),
        ("config.yaml", "mcpServers:\n  a: {}\n", "config.yaml is YAML, which is not read"),
        ("mcp.json", "{mcpServers: {}}", "line 1, column 2: .*need double quotes .JSON5 is not read"),
        ("mcp.json", "{\n  'mcpServers': {}}", "line 2, column 3: .*need double quotes"),
        ("mcp.json", '{"\u00e9": 1, x}', "mcp.json is not valid JSON: line 1, column 10: Missing a name"),
        ("mcp.json", '{"mcpServers": {} /* open', "mcp.json is not valid JSON: line 1"),
        ("mcp.json", '{"mcpServers": NaN}', "mcp.json is not valid JSON: line 1, column 16: Invalid value"),
        ("mcp.json", '{"mcpServers": {}}\0', "mcp.json is not valid JSON: it contains a null character"),
        ("mcp.json", "", "mcp.json is empty"),
        ("mcp.json", "\ufeff \n", "mcp.json is empty"),
        ("mcp.json", "[" * 100_000, "mcp.json is nested too deeply"),
        ("mcp.json", "[]", "mcp.json: expected a JSON object with a map 'mcpServers'"),
        ("mcp.json", '{"mcp": {"allowed": []}}', "mcp.json names no MCP servers"),
        ("mcp.json", '{"mcpServers": null}', "mcp.json names no MCP servers"),
        ("mcp.json", '{"mcpServers": "x"}', "mcp.json: 'mcpServers' has an unknown format"),
    ],
)
def test_a_file_that_is_not_read_is_named(file: str, content: str, message: str, tmp_path: Path) -> None:
    """One sentence says what the file is, and where it is wrong."""
    (tmp_path / file).write_text(content)
    with pytest.raises(InvalidDocument, match=message):
        read_mcp_file(tmp_path / file, file, tmp_path)


def test_utf_16_is_named_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Editors on Windows write both."""
    path = tmp_path / "mcp.json"
    path.write_text('{"mcpServers": {"\u00fcber": {"command": "sh"}}}', encoding="utf-8-sig")
    assert [server.id for server in read_mcp_file(path, "mcp.json", tmp_path).servers] == ["\u00fcber"]
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(InvalidDocument, match=r"mcp\.json is UTF-16 text: save it as UTF-8"):
        read_mcp_file(path, "mcp.json", tmp_path)


def _ids(tmp_path: Path, content: str) -> list[str]:
    (tmp_path / "mcp.json").write_text(content)
    file = read_mcp_file(tmp_path / "mcp.json", "mcp.json", tmp_path)
    assert file.problems == []
    return [server.id for server in file.servers]


def test_every_section_of_a_file_is_read(tmp_path: Path) -> None:
    """A file may be for two hosts. A server that both have counts once; another one of that name has its section's."""
    both = '{"mcpServers": {"a": {"command": "sh"}, "b": {"command": "sh"}}, "servers": %s}'
    assert _ids(tmp_path, both % '{"a": {"type": "stdio", "command": "sh"}, "c": {"command": "sh"}}') == ["a", "b", "c"]
    assert _ids(tmp_path, both % '{"a": {"command": "cat"}}') == ["a", "b", "servers.a"]
    assert _ids(tmp_path, '{"mcp.servers": {"a": {"command": "sh"}}, "amp": {"mcpServers": {}}}') == ["a"]
    assert _ids(tmp_path, '{"mcp": {"servers": {"type": "local", "command": ["sh"]}}}') == ["servers"]
    assert _ids(tmp_path, '{"mcp": {"servers": {"type": {"command": "sh"}}}}') == ["type"]
    assert _ids(tmp_path, '{"settings": {"mcp": {"servers": {"a": {"command": "sh"}}}}}') == ["a"]
    assert _ids(tmp_path, '{"customizations": {"vscode": {"mcp": {"servers": {"a": {"command": "sh"}}}}}}') == ["a"]
    assert _ids(
        tmp_path,
        '{"mcpServers": {"__proto__": {"command": "sh"}, "A": {"url": "http://x/"}, "a": {"url": "http://x/"}}}',
    ) == [
        "__proto__",
        "A",
        "a",
    ]
    assert _ids(tmp_path, '{"projects": {"/another": {"mcpServers": {"a": 1}}}}') == []


def _launch(tmp_path: Path, **entry: Any) -> Any:
    server = McpServer(id="a", name="a", **entry)
    return launch_of(server, McpHost(environment=ENVIRONMENT, project=tmp_path, config_folder=tmp_path))


def test_an_unset_variable_stays_unknown_and_a_default_is_used(tmp_path: Path) -> None:
    """The service may have the variable, so the text is not checked; its name is reported."""
    launch = _launch(tmp_path, command="${NOWHERE}/server", args=("${NAME}", "$NAME", "${A:-${B}}"))
    assert (launch.program, launch.problems, launch.unset) == (None, (), ("NOWHERE",))
    assert launch.args == ("sh", "$NAME", "${B}")
    assert _launch(tmp_path, command="${NOWHERE:-sh}").program.endswith("/sh")
    assert _launch(tmp_path, url="http://${HOST}:${PORT}/").problems == ()
    assert _launch(tmp_path, url="ftp://${HOST}/").problems != ()
    assert _launch(tmp_path, command="${EMPTY:-}").problems == ("has an empty command",)
    assert _launch(tmp_path, url="${EMPTY:-} ").problems == ("has an empty url",)
    assert _launch(tmp_path, command="{env:NOWHERE}/server").unset == ("NOWHERE",)


def test_a_message_contains_no_secret_of_a_url(tmp_path: Path) -> None:
    """Neither a filled in variable nor a password or a query."""
    (problem,) = _launch(tmp_path, url="http://user:pa55@${HOST}:99999/${TOKEN}?key=s3cret").problems
    assert problem == (
        "has a url that is not valid (Port out of range 0-65535): 'http://[REDACTED]@${HOST}:99999/${TOKEN}'"
    )
