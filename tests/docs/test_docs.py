"""The documentation agrees with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from release_tasks import ns
from release_tasks.config.reference import configuration_page
from release_tasks.tasks.project import KINDS
from tests.faults.test_mutants import TESTED, UNTESTED
from tests.support.documented.pages import all_pages

REPOSITORY = Path(__file__).parents[2]
PAGES = all_pages()
OF_THIS_REPOSITORY = {
    f"dev.{name}" for name in ("bench", "build", "check", "coverage", "docs", "release", "screenshots", "site")
}


@pytest.mark.smoke
def test_configuration_page_is_current() -> None:
    """docs/configuration.md is what ``inv dev.docs`` writes today."""
    assert (REPOSITORY / "docs" / "configuration.md").read_text() == configuration_page(KINDS)


def test_every_task_and_flag_has_a_help_text() -> None:
    """``inv --list`` and ``inv --help TASK`` have a sentence for each."""
    for name in ns.task_names:
        task = ns[name]
        assert task.__doc__ and task.__doc__.strip().endswith("."), name
        for argument in task.get_arguments():
            assert argument.help, (name, argument.name)


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_tasks_that_exist(page: str) -> None:
    """Every task that a page names exists."""
    own = {"demo", "deploy", *OF_THIS_REPOSITORY}
    text = (REPOSITORY / page).read_text()
    named = set(re.findall(r"\binv ((?:release|gate|gateway|pairing|dev)\.[a-z-]+)", text))
    assert named <= set(ns.task_names) | own, named - set(ns.task_names) - own


def test_each_promise_has_a_number_of_its_own_and_existing_tests() -> None:
    """The rows of docs/guarantees.md are G1, G2 and so on; the test files and headings that they name exist."""
    text = (REPOSITORY / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (G\d+) \|.*\| (.*) \|$", text, re.MULTILINE)
    assert [number for number, _ in rows] == [f"G{position}" for position in range(1, len(rows) + 1)]
    names = {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    for number, proof in rows:
        tests = re.findall(r"`([^`]+)`", proof)
        targets = re.findall(r"\(#([^)]+)\)", proof)
        assert tests or targets, number
        assert {Path(test).name for test in tests if test.endswith(".py")} <= names, number
        assert all((REPOSITORY / test).is_dir() for test in tests if test.endswith("/")), number
        assert set(targets) <= headings, number


def test_the_guarantees_page_has_the_numbers_of_the_mutants() -> None:
    """It says how many flushes a fault test finds missing, and how many none can."""
    text = (REPOSITORY / "docs" / "guarantees.md").read_text()
    assert f"| one of {len(TESTED)} flushes |" in text
    assert f"the absence of the other {len(UNTESTED)} flushes" in text


def test_the_architecture_page_draws_the_layers_of_the_import_contract() -> None:
    """The packages of each layer are the same, from the top."""
    array = re.search(r"^layers = (\[.*?^\])", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert array is not None
    layers = ast.literal_eval(array[1])  # an array of strings in TOML reads as a list in Python; 3.10 has no tomllib
    expected = [{name.strip() for name in layer.split("|")} for layer in layers]
    drawing = (REPOSITORY / "docs" / "architecture.md").read_text().partition("```text\n")[2].partition("```")[0]
    drawn: list[set[str]] = []
    for line in drawing.splitlines():
        if line[0].isdigit():
            drawn.append(set())
        drawn[-1] |= {name.strip("/,") for name in line[1:34].split()}
    assert drawn[0] == {"tasks.py"}
    assert drawn[1] == {"release_tasks"} | expected[0]
    assert drawn[2:] == expected[1:]
    packages = {path.parent.name for path in (REPOSITORY / "release_tasks").glob("*/__init__.py")}
    assert packages <= set().union(*expected)
