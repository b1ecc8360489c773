"""Mistakes that operators make in invoke.yaml: each has one line, with its place in the file and what to write."""

# ruff: noqa: E501  (the table is read line by line)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from release_tasks.core.errors import ConfigError, ExitCode
from release_tasks.tasks.project import load_project

MISTAKES: list[tuple[str, str, str]] = [
    ('unquoted version', 'release:\n  app:\n    version: 1.10\n', '3: release.app.version: expected text; unquoted, 1.10 is the number 1.1: put it in quotes: "1.10"'),
    ('name number', 'release:\n  app: {name: 1.0}\n', '2: release.app.name: expected text; unquoted, 1.0 is the number 1.0: put it in quotes: "1.0"'),
    ('version whole number', 'release:\n  app: {name: x, version: 2}\n', '2: release.app.version: expected text; unquoted, 2 is the number 2: put it in quotes: "2"'),
    ('name yes', 'release:\n  app:\n    name: yes\n', '3: release.app.name: expected text; unquoted, yes is true: put it in quotes: "yes"'),
    ('date', 'release:\n  app:\n    version: 2024-01-01\n', '3: release.app.version: expected text; unquoted, 2024-01-01 is a date: put it in quotes: "2024-01-01"'),
    ('env number', 'release:\n  gates:\n    build: {command: make, env: {PORT: 010}}\n', '3: release.gates.build.env.PORT: expected text; unquoted, 010 is the number 8: put it in quotes: "010"'),
    ('env null', 'release:\n  gates:\n    build: {command: make, env: {PORT: ~}}\n', '3: release.gates.build.env.PORT: expected text, got nothing: the key has no value'),
    ('command off', 'release:\n  restart: {command: off}\n', '2: release.restart.command: expected text; unquoted, off is false: put it in quotes: "off"'),
    ('path number', 'release:\n  assets:\n    db: {sqlite: 3}\n', '3: release.assets.db.sqlite: expected a path; unquoted, 3 is the number 3: put it in quotes: "3"'),
    ('octal', 'release:\n  retention: 012\n', '2: release.retention: unquoted, 012 is the number 10: write it in plain decimal digits'),
    ('underscore', 'release:\n  retention: 1_000\n', '2: release.retention: unquoted, 1_000 is the number 1000: write it in plain decimal digits'),
    ('hex', 'gateway:\n  port: 0x10\n', '2: gateway.port: unquoted, 0x10 is the number 16: write it in plain decimal digits'),
    ('sexagesimal', 'release:\n  watch: {for: 1:30}\n', '2: release.watch.for: unquoted, 1:30 is the number 90: write it in plain decimal digits'),
    ('inf', 'release:\n  watch:\n    for: .inf\n', '3: release.watch.for: unquoted, .inf is the number inf: write it in plain decimal digits'),
    ('exponent', 'release:\n  health: {timeout: 1e3}\n', "2: release.health.timeout: expected a duration such as 30s or 10m, got '1e3'"),
    ('key on', 'release:\n  gates:\n    on: {command: make}\n', '3: release.gates.on: expected a text as key; unquoted, on is true: put it in quotes: "on"'),
    ('key number', 'release:\n  gates:\n    1.10: {command: make}\n', '3: release.gates.1.10: expected a text as key; unquoted, 1.10 is the number 1.1: put it in quotes: "1.10"'),
    ('key null', 'release:\n  assets:\n    ~: {file: x}\n', '3: release.assets.~: expected a text as key; unquoted, ~ is nothing: put it in quotes: "~"'),
    ('two assets', 'release:\n  assets:\n    a: {file: a}\n  retention: 3\n  assets:\n    b: {file: b}\n', '5: release.assets: this key is also on line 2, and only one of both counts: keep one'),
    ('two releases', 'release:\n  retention: 3\nrelease:\n  retention: 4\n', '3: release: this key is also on line 1, and only one of both counts: keep one'),
    ('two values', 'release:\n  gates:\n    build: {command: a, timeout: 1s, timeout: 2s}\n', '3: release.gates.build.timeout: this key is twice on this line, and only one of both counts: keep one'),
    ('tab', 'release:\n\tapp: {name: x}\n', '2: a tab before the first word: YAML indents with spaces only'),
    ('tab in the middle', 'release:\n  app:\n  \tname: x\n', '3: a tab before the first word: YAML indents with spaces only'),
    ('quote', 'release:\n  app:\n    name: "x\n    version: y\n', '3: a quoted text that begins here is not closed'),
    ('brace', 'release:\n  gates:\n    build: {command: make\n', '3: a `{` that begins here is not closed, or a comma is missing in it'),
    ('bracket', 'release:\n  gates:\n    build: {command: make, needs: [a}\n', '3: a `[` that begins here is not closed, or a comma is missing in it'),
    ('colon in value', 'release:\n  restart:\n    command: echo a: b\n', '3: a wrong indentation, a key above without `:`, or a second `:` in this line: put a value with `: ` in quotes'),
    ('indentation', 'release:\n  gates:\n    build: {command: make}\n   tests: {command: make}\n', '4: the indentation differs from the keys above, or a `-` stands next to keys: use the same number of spaces'),
    ('glob', 'release:\n  assets:\n    db: {sqlite: *.db}\n', '3: `*` or `&` begins this value: put the value in quotes'),
    ('percent', 'release:\n  restart:\n    command: %make\n', '3: this character cannot begin a value: put the value in quotes'),
    ('tag', 'release:\n  app:\n    name: !!python/object:os.system x\n', '3: `!` begins a tag, which is not supported here: write the value without it, or put it in quotes'),
    ('own tag', 'release:\n  app:\n    name: !vault x\n', '3: `!` begins a tag, which is not supported here: write the value without it, or put it in quotes'),
    ('documents', 'release:\n  retention: 3\n---\nrelease:\n  retention: 4\n', '3: `---` begins a second document, and only one is read: remove the line'),
    ('list at the top', '- release:\n    retention: 3\n', '1: expected keys such as `release:` at the top of the file, got a list'),
    ('text at the top', 'release\n', '1: expected keys such as `release:` at the top of the file, got a single value'),
    ('endless alias', 'release: &all\n  app: *all\n', '1: an alias in this value refers to the value itself'),
    ('wrong date', 'release:\n  app:\n    version: 2024-13-45\n', '3: 2024-13-45 cannot be read (month must be in 1..12): put it in quotes'),
    ('misspelt key', 'release:\n  helth: {url: "http://127.0.0.1:1/"}\n', "2: release.helth: unknown key (did you mean 'health'?)"),
    ('camel case', 'release:\n  reliability: {hmacSecretEnv: API_SECRET}\n', "2: release.reliability.hmacSecretEnv: unknown key (did you mean 'hmac_secret_env'?)"),
    ('dashes', 'release:\n  health:\n    passes-after-restore: 2\n', "3: release.health.passes-after-restore: unknown key (did you mean 'passes_after_restore'?)"),
    ('capital', 'release:\n  Retention: 3\n', "2: release.Retention: unknown key (did you mean 'retention'?)"),
    ('key of another section', 'release:\n  settle: 3s\n', '2: release.settle: unknown key (it is a key of release.restart: check the indentation)'),
    ('gate next to gates', 'release:\n  gates:\n  build: {command: make}\n', '3: release.build: unknown key (indent it below gates, if it is one of the gates)'),
    ('asset next to assets', 'release:\n  assets: {}\n  db: {sqlite: a.db}\n', '3: release.db: unknown key (indent it below assets, if it is one of the assets)'),
    ('section misspelt', 'realease:\n  retention: 3\n', "1: realease: unknown section (did you mean 'release'?)"),
    ('section in capitals', 'Release:\n  gates: {build: {command: make}}\n', "1: Release: unknown section (did you mean 'release'?)"),
    ('not indented', 'release:\ngates:\n  build: {command: make}\n', '2: gates: unknown section: indent it below release, as release.gates'),
    ('tasks misspelt', 'task: {executor_class: release_tasks.executor.StageExecutor}\n', "1: task: unknown section (did you mean 'tasks'?)"),
    ('tasks is a list', 'tasks: [executor_class]\n', "1: tasks: expected keys and values below it, got ['executor_class']"),
    ('list of gates', 'release:\n  gates: [build]\n', "2: release.gates: expected a mapping, got ['build']: write NAME: without `-`"),
    ('list with dashes', 'release:\n  gates:\n    - build: {command: make}\n', "2: release.gates: expected a mapping, got [{'build': {'command': 'make'}}]: write NAME: without `-`"),
    ('gate is text', 'release:\n  gates:\n    build: npm run build\n', "3: release.gates.build: expected a mapping with one of command, http, path, json, mcp, python, got 'npm run build'"),
    ('gate is a list', 'release:\n  gates:\n    build: [npm, run, build]\n', "3: release.gates.build: expected a mapping with one of command, http, path, json, mcp, python, got ['npm', 'run', 'build']"),
    ('gate is empty', 'release:\n  gates:\n    build:\n', '3: release.gates.build: expected a mapping with one of command, http, path, json, mcp, python, got nothing: the key has no value'),
    ('two kinds', 'release:\n  gates:\n    build: {command: make, path: Makefile}\n', '3: release.gates.build: expected exactly one of command, http, path, json, mcp, python; got command and path'),
    ('no kind', 'release:\n  gates:\n    build: {timeout: 5s}\n', '3: release.gates.build: expected exactly one of command, http, path, json, mcp, python; got none'),
    ('unknown kind', 'release:\n  gates:\n    build: {comand: make}\n', "3: release.gates.build.comand: unknown key (did you mean 'command'?)"),
    ('asset of two kinds', 'release:\n  assets:\n    db: {sqlite: a.db, file: a.db}\n', '3: release.assets.db: expected exactly one of sqlite, directory, file, python; got sqlite and file'),
    ('kind of gate as asset', 'release:\n  assets:\n    db: {path: a.db}\n', '3: release.assets.db: expected exactly one of sqlite, directory, file, python; got none'),
    ('command is a list', 'release:\n  gates:\n    build: {command: [npm, run, build]}\n', "3: release.gates.build.command: expected text, got ['npm', 'run', 'build']"),
    ('key of another kind', 'release:\n  gates:\n    build: {path: a, cwd: b}\n', '3: release.gates.build: cwd: allowed only with command'),
    ('no unit text', 'release:\n  gates:\n    build: {command: make, timeout: 5 min}\n', "3: release.gates.build.timeout: expected a duration such as 30s or 10m, got '5 min'"),
    ('soon', 'release:\n  gates:\n    build: {command: make, timeout: soon}\n', "3: release.gates.build.timeout: expected a duration such as 30s or 10m, got 'soon'"),
    ('negative', 'release:\n  gates:\n    build: {command: make, timeout: -5s}\n', "3: release.gates.build.timeout: expected a duration such as 30s or 10m, got '-5s'"),
    ('zero retention', 'release:\n  retention: 0\n', '2: release.retention: expected a whole number, 1 or more, got 0'),
    ('retention text', 'release:\n  retention: many\n', "2: release.retention: expected a whole number, 1 or more, got 'many'"),
    ('needs itself', 'release:\n  gates:\n    build: {command: make, needs: [build]}\n', "3: release.gates.build.needs: circular: 'build' depends on 'build'"),
    ('needs text', 'release:\n  gates:\n    a: {command: x}\n    b: {command: y, needs: a}\n', "4: release.gates.b.needs: expected a list such as [build], got 'a'"),
    ('needs unknown', 'release:\n  gates:\n    build: {command: make}\n    tests: {command: make, needs: [bild]}\n', "4: release.gates.tests.needs: there is no gate 'bild' (did you mean 'build'?)"),
    ('circle', 'release:\n  gates:\n    a: {command: x, needs: [b]}\n    b: {command: x}\n    c: {command: x, needs: [c]}\n', "5: release.gates.c.needs: circular: 'c' depends on 'c'"),
    ('url without scheme', 'release:\n  health: {url: "127.0.0.1:3100/health"}\n', "2: release.health: url: expected an http:// or https:// URL, got '127.0.0.1:3100/health'"),
    ('gate url without scheme', 'release:\n  gates:\n    api: {http: "localhost:3100"}\n', "3: release.gates.api: http: expected 'health' or an http:// or https:// URL, got 'localhost:3100'"),
    ('port', 'gateway: {port: 70000}\n', '1: gateway: port: expected a port, 0 to 65535, got 70000'),
    ('boolean', 'release:\n  watch: {rollback: maybe}\n', "2: release.watch.rollback: expected true or false, got 'maybe'"),
    ('switch', 'release:\n  storage: {deltas: on}\n', "2: release.storage.deltas: expected auto or off, got True"),
    ('size', 'release:\n  storage: {deltas_above: 64MB}\n', "2: release.storage.deltas_above: expected a size such as 64MiB or 1GiB, got '64MB'"),
    ('storage misspelt', 'release:\n  storage: {delta: auto}\n', "2: release.storage.delta: unknown key (did you mean 'deltas'?)"),
    ('share', 'release:\n  watch: {error_rate: 30}\n', '2: release.watch.error_rate: expected a share such as 0.3 or 30%, got 30'),
    ('secret', 'release:\n  reliability: {hmac_secret_env: "s3cr3t!value"}\n', '2: release.reliability.hmac_secret_env: expected the name of an environment variable such as API_SECRET, got a text that may be the secret itself: set the variable to it, and write its name here'),
    ('known secret', 'release:\n  reliability: {bearer_token_env: ghp_abcdefghijklmnopqrstuvwxyz0123456789}\n', '2: release.reliability.bearer_token_env: expected the name of an environment variable such as API_SECRET, got a text that may be the secret itself: set the variable to it, and write its name here'),
    ('dollar', 'release:\n  reliability: {bearer_token_env: $TOKEN}\n', "2: release.reliability.bearer_token_env: expected the name of an environment variable, got '$TOKEN': write it without $ and braces"),
    ('path with a variable', 'release:\n  assets:\n    db: {sqlite: $HOME/app.db}\n', "3: release.assets.db.sqlite: expected a path, got '$HOME/app.db': variables such as $HOME are not replaced in a path"),
    ('path of an unknown user', 'release:\n  assets:\n    db: {sqlite: ~no-such-user/app.db}\n', "3: release.assets.db.sqlite: expected a path, got '~no-such-user/app.db': there is no such user"),
    ('empty path', 'release:\n  assets:\n    db: {sqlite: ""}\n', "3: release.assets.db.sqlite: expected a path, got ''"),
    ('name', 'release:\n  gates:\n    a/b: {command: x}\n', "1: release: 'a/b' is not a valid name in gates"),
    ('file without key', 'release:\n  app:\n    version: {file: package.json}\n', '3: release.app.version: expected file and key together'),
    ('notice', 'release:\n  notices:\n    pager: {command: x, when: [faild]}\n', "3: release.notices.pager: when: expected one or more of prepared, blocked, restored, failed, degraded; got 'faild' (did you mean 'failed'?)"),
]  # fmt: skip


def problems_of(folder: Path, text: str | bytes, name: str = "invoke.yaml") -> list[str]:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_project(folder)
    assert error.value.exit_code == ExitCode.USAGE
    return error.value.problems


@pytest.mark.parametrize(("text", "line"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES])
def test_each_mistake_has_one_line(tmp_path: Path, text: str, line: str) -> None:
    """Also with Windows line ends and with a byte order mark."""
    assert problems_of(tmp_path, text) == [f"invoke.yaml:{line}"]
    assert problems_of(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()) == [f"invoke.yaml:{line}"]


@pytest.mark.parametrize(
    "text",
    [
        "release:\n  health:\n  gates:\n  assets:\n",  # the keys are commented out
        "release:\n  app: {name: \"1.0\", version: 'yes'}\n",
        "release:\n  app: {name: x, version: ~}\n  watch: {rollback: yes, for: 90}\n",
        "release:\n  gates:\n    build: &it {command: make}\n    again: {<<: *it, timeout: 5s}\n",
        "release:\n  gates:\n    \"1.10\": {command: make}\n    'on': {command: make}\n",
        "mine: {1: a, on: b, 1.10: c}\nrelease_notes: {title: x}\nreleases: [a]\nrelease: {retention: 2}\n",
        'release:\n  health: {url: "http://127.0.0.1:1/", expect: {status: [200, 204], json: a.b, equals: 1.10}}\n',
    ],
)
def test_a_correct_file_has_no_mistake(tmp_path: Path, text: str) -> None:
    """Quotes, anchors, merge keys, sections without keys, and the sections of other packages."""
    (tmp_path / "invoke.yaml").write_text(text)
    assert load_project(tmp_path).project == tmp_path


def test_all_mistakes_of_a_file_are_reported_with_their_lines(tmp_path: Path) -> None:
    """A key that is written twice does not hide other mistakes."""
    text = "release:\n  retention: 0\n  app:\n    version: 1.10\n  retention: 0x3\n"
    assert [problem.split(": ")[:2] for problem in problems_of(tmp_path, text)] == [
        ["invoke.yaml:5", "release.retention"],
        ["invoke.yaml:4", "release.app.version"],
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("release: {}\n".encode("utf-16"), "invoke.yaml: the file is UTF-16: save it as UTF-8"),
        (b"release:\n  app: {name: caf\xe9}\n", "invoke.yaml:2: a character that is not UTF-8: save the file as UTF-8"),
        (b"release:\n  app: {name: a\x00b}\n", "invoke.yaml:2: a control character, '\\x00': remove it"),
    ],
)
def test_a_file_that_is_no_text_is_a_mistake(tmp_path: Path, data: bytes, problem: str) -> None:
    """The encoding is named, and the line."""
    assert problems_of(tmp_path, data) == [problem]


def test_aliases_that_stand_for_very_many_values_are_a_mistake(tmp_path: Path) -> None:
    """Nine lines can stand for 10**8 values; the message is one line all the same."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    text = "release:\n  gates:\n    a: {command: x, needs: *l8}\n"
    (problem,) = problems_of(tmp_path, f"l0: &l0 [x, x]\n{levels}{text}")
    assert len(problem) < 500


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{\n"release": {\n\t"retention": 3,\n\t"retention": 4}}',
            "4: release.retention: this key is also on line 3, and only one of both counts: keep one",
        ),
        (
            '{"release": {"app":\n {"version": 1.10}}}',
            '2: release.app.version: expected text; unquoted, 1.10 is the number 1.1: put it in quotes: "1.10"',
        ),
        ('{"release": {\n"app": {"name": "x",}}}', "2: not valid JSON: "),
        ('["release"]', "1: expected keys such as `release:` at the top of the file, got a list"),
    ],
)
def test_a_json_file_is_checked_in_the_same_way(tmp_path: Path, text: str, problem: str) -> None:
    """Its lines are known too."""
    (found,) = problems_of(tmp_path, text, "invoke.json")
    assert found.startswith(f"invoke.json:{problem}")


def test_a_python_file_is_checked_too(tmp_path: Path) -> None:
    """Python has the values only; its own errors have a line."""
    (found,) = problems_of(tmp_path, "release = {'app': {'version': 1.10}}\n", "invoke.py")
    assert found == "invoke.py: release.app.version: expected text, got the number 1.1: put it in quotes"
    (found,) = problems_of(tmp_path, "x = 1\nrelease = {nme: 1}\n", "invoke.py")
    assert found == "invoke.py:2: cannot be used: name 'nme' is not defined"
    (found,) = problems_of(tmp_path, "x = 1\nrelease = {\n", "invoke.py")
    assert found.startswith("invoke.py:2: cannot be used: ")


def test_the_file_of_the_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A duplicate in the user's file is reported although the project's file has the key too."""
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / ".invoke.yaml").write_text("release:\n  retention: 3\n  retention: 4\n  lock_wait: soon\n")
    assert [problem.split(": ")[0] for problem in problems_of(project, "release: {retention: 5}\n")] == [
        "~/.invoke.yaml:3",
        "~/.invoke.yaml:4",
    ]


def test_a_name_with_dots_has_its_line(tmp_path: Path) -> None:
    """A dotted path is not split at the dots of a name."""
    text = "release:\n  gates:\n    a.b:\n      command: x\n      timeout: soon\n    a: {command: x}\n"
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("invoke.yaml:5: release.gates.a.b.timeout: ")


def test_a_secret_is_not_repeated(tmp_path: Path) -> None:
    """The value of a key that names a variable may be the secret itself."""
    for secret in ("s3cr3t!value", "9f86d081884c7d659a2feaa0c55ad015", "ghp_" + "a1" * 18, "sk-proj-" + "a1" * 18):
        (problem,) = problems_of(tmp_path, json.dumps({"release": {"attestation": {"key_env": secret}}}))
        assert secret not in problem and "set the variable to it, and write its name here" in problem
