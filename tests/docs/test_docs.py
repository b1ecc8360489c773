"""The documentation agrees with the code."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from release_tasks import ns
from release_tasks.config.reference import configuration_page
from release_tasks.tasks.project import KINDS

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "docs").rglob("*.md")))]


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
    own = {"demo", "deploy", "dev.build", "dev.docs", "dev.check", "dev.site", "dev.screenshots"}
    text = (REPOSITORY / page).read_text()
    named = set(re.findall(r"\binv ((?:release|gate|gateway|pairing|dev)\.[a-z-]+)", text))
    assert named <= set(ns.task_names) | own, named - set(ns.task_names) - own


def test_the_architecture_page_draws_the_layers_of_the_import_contract() -> None:
    """The packages of each layer are the same, from the top."""
    contract = configparser.ConfigParser()
    contract.read(REPOSITORY / "setup.cfg")
    layers = contract["importlinter:contract:layers"]["layers"].split("\n")
    expected = [{name.strip() for name in layer.split("|")} for layer in layers if layer]
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
