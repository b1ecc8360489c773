"""Commands in messages: each is typed in the form of the project, and Invoke accepts each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Collection, Program
from invoke.parser import Parser

import release_tasks
from release_tasks.core.typed import Form, command_pattern, typed, typed_as
from release_tasks.report.table import wrapped
from release_tasks.stages.diagnose.guide import GUIDE
from release_tasks.tasks.executor import StageExecutor, stage
from release_tasks.tasks.executor.form import form_of_run
from release_tasks.tasks.program import ReleaseProgram
from release_tasks.tasks.suite import suite

PACKAGE = Path(release_tasks.__file__).parent
LITERAL = re.compile(r"\b(?:inv|invoke|release-tasks) [a-z-]+[.][a-z]")
# These write a page or a transcript, not a message of a task.
PAGES = {"gateway/demo.py", "config/reference.py", "tasks/reference.py"}
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if str(path.relative_to(PACKAGE)) not in PAGES]


def texts_in(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the texts of a module that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    owners = [node for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node) is not None]
    docstrings = {id(owner.body[0].value) for owner in owners if isinstance(owner.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def templates() -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every command in the source, with VALUE for what is known only when it is printed."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "typed":
                words = [word for word in node.args if not isinstance(word, ast.Starred)]
                if words:
                    place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                    yield place, [str(word.value) if isinstance(word, ast.Constant) else "VALUE" for word in words]
    for row in GUIDE:
        for command in row.commands:
            yield f"guide row {row.key}", re.sub(r"\{\w+\}", "VALUE", command).split()


@pytest.mark.slow
def test_no_message_contains_a_command_in_a_fixed_form() -> None:
    """A command that ``typed`` does not write would be wrong for release-tasks and for a renamed collection."""
    fixed = [
        f"{path.relative_to(PACKAGE)}:{text.lineno}: {text.value!r}"
        for path in SOURCES
        for text in texts_in(ast.parse(path.read_text()))
        if LITERAL.search(str(text.value))
    ]
    fixed += [str(path) for path in PACKAGE.rglob("templates/*") if LITERAL.search(path.read_text())]
    assert fixed == []


@pytest.mark.slow
def test_invoke_accepts_every_command_of_the_source() -> None:
    """The task exists, and it has every flag of the command."""
    found = list(templates())
    assert len(found) > 100
    for place, words in found:
        parsed = Parser(contexts=suite().to_contexts()).parse_argv(words)
        assert [context.name for context in parsed] == [words[0]], place


@stage()
def show(ctx: object) -> None:
    """Print what to type."""
    with typed_as(form_of_run()):
        print(typed("release.rollback", "--snapshot", "a b"), typed("gate.run", "build"), sep="\n")


def renamed(*parts: str, name: str = "ops") -> Collection:
    """Return the namespace of a project that has these collections of the suite, and a task that prints commands."""
    inner = Collection(name)
    for part in parts:
        inner.add_collection(suite().subcollection_from_path(part))
    return Collection(show, inner)


def lines_of(capsys: pytest.CaptureFixture[str], program: Program, *argv: str) -> list[str]:
    """Run a command line, and return the lines that it prints."""
    program.run(list(argv), exit=False)
    return capsys.readouterr().out.splitlines()


def test_commands_have_the_names_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    """A collection under another name, also by a part of the path; a missing one is typed with release-tasks."""
    tool = Program(namespace=renamed("release", "gate"), binary_names=["inv"])
    assert lines_of(capsys, tool, "inv", "show") == [
        "inv ops.release.rollback --snapshot 'a b'",
        "inv ops.gate.run build",
    ]
    tool = Program(namespace=renamed("gate"), binary_names=["tool", "long-tool"])
    assert lines_of(capsys, tool, "/bin/tool", "show") == [
        "release-tasks release.rollback --snapshot 'a b'",
        "tool ops.gate.run build",
    ]


def test_single_tasks_of_the_suite_keep_their_new_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A project may add single tasks, and give them names of its own."""
    namespace = Collection(show)
    namespace.add_task(suite()["release.rollback"], name="undo")
    tool = Program(namespace=namespace, binary_names=["inv"], executor_class=StageExecutor)
    assert lines_of(capsys, tool, "inv", "show") == ["inv undo --snapshot 'a b'", "release-tasks gate.run build"]


def test_the_options_that_choose_the_project_are_typed_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``-c``, ``-r`` and ``-f`` of Invoke: without them the command would find another project, or none."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "deploy.py").write_text(
        "from invoke import Collection\nfrom release_tasks import ns as suite\n"
        "from tests.tasks.test_typed import show\n"
        "ns = Collection(show, *suite.collections.values())\n"
    )
    (tmp_path / "other.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    inv = Program(binary_names=["invoke", "inv"])
    lines = lines_of(capsys, inv, "inv", "-r", "ops", "-c", "deploy", "-f", "other.yaml", "show")
    assert lines[1] == "inv -c deploy -r ops -f other.yaml gate.run build"


def test_release_tasks_is_typed_where_it_was_typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own program has the names of the suite."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoke.yaml").write_text("{}")
    namespace = Collection(show, *map(suite().subcollection_from_path, ("release", "gate")))
    lines = lines_of(capsys, ReleaseProgram(namespace, "1"), "/usr/bin/python", "show")
    assert lines[1] == "release-tasks gate.run build"


def test_no_command_is_broken_across_lines() -> None:
    """Half of a command may be a complete one."""
    with typed_as(Form(program=("inv", "-c", "ops"), names={"release.rollback": "undo"})):
        text = f"word {typed('release.rollback', '--snapshot', 'v1')} and {typed('gate.run', 'build')}"
        assert re.findall(command_pattern(), text) == ["inv -c ops undo", "release-tasks gate.run"]
        assert wrapped(text, 30) == [
            "word",
            "inv -c ops undo --snapshot v1",
            "and",
            "release-tasks gate.run build",
        ]
    assert typed("release.status") == "inv release.status"
