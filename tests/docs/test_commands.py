"""Every command in README.md and docs/ is typed in a project in the state that its page describes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.documented.example_project import make_template
from tests.support.documented.pages import REPOSITORY, SHELLS, Block, Command, all_pages, commands_of, parts_of
from tests.support.documented.reader import Reader
from tests.support.documented.table import TYPED_ELSEWHERE, reason_not_run, state_of

LONG = 300
"""A page of more lines is taken in shares, so that several workers can share it."""


def is_typed(part: Block | Command) -> bool:
    """Return whether the part is typed, or compared with a printed output."""
    if isinstance(part, Command):
        return True
    return part.language == "text" or (part.language in SHELLS and part.page not in TYPED_ELSEWHERE)


def group_of(part: Block | Command) -> str:
    """Return the test group of a part of a long page: its heading where that names a state, else its chapter."""
    return part.heading if state_of(part.page, part.heading) else part.chapter


def chapters() -> list[Any]:
    """Return each page with commands, or each group of a long one. All workers collect, so no shell is used."""
    found = []
    for page in all_pages():
        parts = [part for part in parts_of(page) if is_typed(part)]
        groups = [("", parts)]
        if parts and parts[-1].line > LONG:
            groups = [(name, list(group)) for name, group in groupby(parts, key=group_of)]
        found += [pytest.param(group, id=f"{page}#{name}" if name else page) for name, group in groups if group]
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project that every state starts with, made once per worker."""
    return make_template(tmp_path_factory.mktemp("template") / "example")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parts", chapters())
def test_commands_do_what_their_page_says(parts: list[Block | Command], template: Path, tmp_path: Path) -> None:
    """The documented exit code and output, in the documented state; unknown commands are named."""
    reader = Reader(template, tmp_path)
    try:
        reader.follow(parts)
    finally:
        reader.leave()
    assert not reader.problems, "\n\n".join(reader.problems)


@pytest.mark.parametrize(("page", "test"), sorted(TYPED_ELSEWHERE.items()))
def test_commands_of_other_tests_are_typed_there(page: str, test: str) -> None:
    """The named test reads the commands of a page that is left out here."""
    assert page.removeprefix("docs/") in (REPOSITORY / test).read_text()


@pytest.mark.slow
def test_commands_that_are_not_run_are_reported(record_property: Callable[[str, object], None]) -> None:
    """They are few, and printed with the reason."""
    reported = []
    for page in all_pages():
        blocks = [part for part in parts_of(page) if isinstance(part, Block) and part.language in SHELLS]
        for command in (command for block in blocks for command in commands_of(block)):
            reason = reason_not_run(command.text)
            if reason:
                reported.append(f"{command.place}: {command.text.splitlines()[0]} ({reason})")
    record_property("not run", reported)
    assert len(reported) <= 5
