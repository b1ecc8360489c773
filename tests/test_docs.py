"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from release_tasks import ns
from release_tasks.config.reference import configuration_page
from release_tasks.tasks.project import KINDS

REPOSITORY = Path(__file__).parents[1]
PAGES = ["README.md", *(str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "docs").rglob("*.md")))]


@pytest.mark.smoke
def test_configuration_page_is_current() -> None:
    """docs/configuration.md is what ``inv dev.docs`` writes today."""
    assert (REPOSITORY / "docs" / "configuration.md").read_text() == configuration_page(KINDS)


def test_every_task_and_flag_explains_itself() -> None:
    """``inv --list`` and ``inv --help TASK`` have a sentence for everything."""
    for name in ns.task_names:
        task = ns[name]
        assert task.__doc__ and task.__doc__.strip().endswith("."), name
        for argument in task.get_arguments():
            assert argument.help, (name, argument.name)


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_tasks_that_exist(page: str) -> None:
    """No page sends an operator to a task that is not there."""
    own = {"demo", "deploy", "dev.build", "dev.docs", "dev.check", "dev.site", "dev.screenshots"}
    text = (REPOSITORY / page).read_text()
    named = set(re.findall(r"\binv ((?:release|gate|gateway|pairing|dev)\.[a-z-]+)", text))
    assert named <= set(ns.task_names) | own, named - set(ns.task_names) - own
