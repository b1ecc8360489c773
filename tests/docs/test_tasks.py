"""docs/tasks/ has every task, says of each what its code says, and what it prints."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks import ns
from release_tasks.tasks.reference import described_tasks, refreshed
from tests.support.documented.pages import REPOSITORY
from tests.support.documented.states import running
from tests.support.documented.table import filled
from tests.support.documented.worlds import World, make_template

PAGES = sorted((REPOSITORY / "docs" / "tasks").glob("*.md"))
PROMISES = ("Exit codes", "As JSON", "See also")
# A line that gives each task something to do; without one the task's name is the line.
LINES = {
    "gate.run": "gate.run gui",
    "gateway.break": "gateway.break mcp",
    "pairing.approve": "pairing.approve telegram CODE",
    "pairing.list": "pairing.list telegram",
    "pairing.reject": "pairing.reject telegram CODE",
    "pairing.revoke": "pairing.revoke telegram SENDER",
    "release.diff": "release.diff r1 r2",
    "release.watch": "release.watch --for 1s",
}


def sections() -> dict[str, str]:
    """What the pages say of each task."""
    found = {}
    for page in PAGES:
        for part in re.split(r"(?m)^## ", page.read_text())[1:]:
            title, _, text = part.partition("\n")
            found[title] = text
    return found


@pytest.mark.smoke
def test_what_comes_from_the_code_is_current() -> None:
    """Sentence, usage and flags are what ``inv dev.docs`` writes today."""
    for page in PAGES:
        assert page.read_text() == refreshed(page.read_text(), ns), f"{page.name} is stale: inv dev.docs"


@pytest.mark.smoke
def test_every_task_is_described_once() -> None:
    """Whoever adds a task is told to describe it, below a heading that is its name."""
    described = [name for page in PAGES for name in described_tasks(page.read_text())]
    assert sorted(described) == sorted(ns.task_names)
    assert {name for name, text in sections().items() if "from the code: inv dev.docs" in text} == set(ns.task_names)


@pytest.mark.parametrize("name", sorted(ns.task_names))
def test_a_task_says_how_it_ends_what_it_prints_and_where_to_go_on(name: str) -> None:
    """Exit codes, the keys of its document, an example that is typed, and a way on."""
    text = sections()[name]
    for promise in PROMISES:
        assert f"- **{promise}:** " in text, (name, promise)
    assert re.search(rf"```sh\ninv {re.escape(name)}\b", text), name
    assert re.search(r"\*\*See also:\*\* .*\]\(", text, re.DOTALL), name


def documented_keys(name: str) -> set[str]:
    """The keys that a task's section gives its document, without what stands in brackets after them."""
    told = re.search(r"- \*\*As JSON:\*\* (.*?)\.\n(?:- |\n)", sections()[name], re.DOTALL)
    assert told, name
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", told[1].partition(";")[0])
    return set(re.findall(r"`([A-Za-z]+)`", re.sub(r"\([^()]*\)", "", text)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A project with two releases, whose gateway runs."""
    folder: Path = tmp_path_factory.mktemp("tasks")
    with contextlib.closing(World(folder / "world", make_template(folder / "template"))) as made:
        running(made)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_documents_have_the_keys_that_the_pages_name(world: World) -> None:
    """Each task's ``--json`` has exactly the documented keys: a script may rely on them."""
    last = ("gateway.stop",)
    wrong: dict[str, tuple[set[str], set[str]]] = {}
    for name in [*(name for name in sorted(ns.task_names) if name not in last), *last]:
        answer = world.run(filled(world, f"inv {LINES.get(name, name)} --json 2>/dev/null"))
        keys, told = set(json.loads(answer.output)), documented_keys(name)
        if keys != told:
            wrong[name] = (keys - told, told - keys)
    assert not wrong, "beside the documented keys, and documented without being there"
