"""docs/tasks/ documents every task, its exit codes and its output."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks import ns
from release_tasks.tasks.reference import described_tasks, refreshed
from tests.support.documented.example_project import ExampleProject, make_template
from tests.support.documented.pages import REPOSITORY
from tests.support.documented.states import running
from tests.support.documented.table import filled

PAGES = sorted((REPOSITORY / "docs" / "tasks").glob("*.md"))
PROMISES = ("Exit codes", "As JSON", "See also")
# A command line for each task that needs one; the default is the task's name.
LINES = {
    "gate.run": "gate.run gui",
    "gateway.break": "gateway.break mcp",
    "pairing.approve": "pairing.approve telegram CODE",
    "pairing.list": "pairing.list telegram",
    "pairing.reject": "pairing.reject telegram CODE",
    "pairing.revoke": "pairing.revoke telegram SENDER",
    "release.diff": "release.diff r1 r2",
    "release.extract": "release.extract --to extracted",
    "release.watch": "release.watch --for 1s",
}


def sections() -> dict[str, str]:
    """Return the section of each task."""
    found = {}
    for page in PAGES:
        for part in re.split(r"(?m)^## ", page.read_text())[1:]:
            title, _, text = part.partition("\n")
            found[title] = text
    return found


@pytest.mark.smoke
def test_generated_parts_are_current() -> None:
    """Description, usage and flags are what ``inv dev.docs`` writes today."""
    for page in PAGES:
        assert page.read_text() == refreshed(page.read_text(), ns), f"{page.name} is stale: inv dev.docs"


@pytest.mark.smoke
def test_every_task_is_described_once() -> None:
    """A new task needs a section below a heading with its name."""
    described = [name for page in PAGES for name in described_tasks(page.read_text())]
    assert sorted(described) == sorted(ns.task_names)
    assert {name for name, text in sections().items() if "from the code: inv dev.docs" in text} == set(ns.task_names)


@pytest.mark.parametrize("name", sorted(ns.task_names))
def test_a_task_has_exit_codes_keys_and_an_example(name: str) -> None:
    """Exit codes, the keys of its document, an example command, and a next command."""
    text = sections()[name]
    for promise in PROMISES:
        assert f"- **{promise}:** " in text, (name, promise)
    assert re.search(rf"```sh\ninv {re.escape(name)}\b", text), name
    assert re.search(r"\*\*See also:\*\* .*\]\(", text, re.DOTALL), name


def documented_keys(name: str) -> set[str]:
    """Return the keys that a task's section lists, without the parts in brackets after them."""
    reported = re.search(r"- \*\*As JSON:\*\* (.*?)\.\n(?:- |\n)", sections()[name], re.DOTALL)
    assert reported, name
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", reported[1].partition(";")[0])
    return set(re.findall(r"`([A-Za-z]+)`", re.sub(r"\([^()]*\)", "", text)))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleProject]:
    """Return a project with two releases and a running gateway."""
    folder: Path = tmp_path_factory.mktemp("tasks")
    with contextlib.closing(ExampleProject(folder / "example", make_template(folder / "template"))) as made:
        running(made)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_documents_have_the_documented_keys(example: ExampleProject) -> None:
    """The ``--json`` of each task has exactly these keys: scripts may rely on them."""
    last = ("gateway.stop",)
    wrong: dict[str, tuple[set[str], set[str]]] = {}
    for name in [*(name for name in sorted(ns.task_names) if name not in last), *last]:
        answer = example.run(filled(example, f"inv {LINES.get(name, name)} --json 2>/dev/null"))
        keys, reported = set(json.loads(answer.output)), documented_keys(name)
        if keys != reported:
            wrong[name] = (keys - reported, reported - keys)
    assert not wrong, "keys without documentation, and documented keys that are missing"
