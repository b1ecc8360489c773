"""Every command in README.md and docs/ is typed for real, in a project in the state that its page speaks of."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.documented.pages import REPOSITORY, SHELLS, Block, Command, all_pages, commands_of, parts_of
from tests.support.documented.reader import Reader
from tests.support.documented.table import TYPED_ELSEWHERE, reason_not_run, state_of
from tests.support.documented.worlds import make_template

LONG = 300
"""A page of more lines is taken in shares, so that several workers can share it."""


def is_typed(part: Block | Command) -> bool:
    """Say whether there is something to type, or to compare with what is printed."""
    if isinstance(part, Command):
        return True
    return part.language == "text" or (part.language in SHELLS and part.page not in TYPED_ELSEWHERE)


def share(part: Block | Command) -> str:
    """What a part of a long page is tested with: its heading where that speaks of a state, else its chapter."""
    return part.heading if state_of(part.page, part.heading) else part.chapter


def chapters() -> list[Any]:
    """Each page that has commands, or each share of a long one; read without a shell: all collect it."""
    found = []
    for page in all_pages():
        parts = [part for part in parts_of(page) if is_typed(part)]
        groups = [("", parts)]
        if parts and parts[-1].line > LONG:
            groups = [(name, list(group)) for name, group in groupby(parts, key=share)]
        found += [pytest.param(group, id=f"{page}#{name}" if name else page) for name, group in groups if group]
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that every state begins with, made once a worker."""
    return make_template(tmp_path_factory.mktemp("template") / "world")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parts", chapters())
def test_commands_do_what_their_page_says(parts: list[Block | Command], template: Path, tmp_path: Path) -> None:
    """The documented exit code, the documented output, on the documented state; unknown commands are named."""
    reader = Reader(template, tmp_path)
    try:
        reader.follow(parts)
    finally:
        reader.leave()
    assert not reader.problems, "\n\n".join(reader.problems)


@pytest.mark.parametrize(("page", "test"), sorted(TYPED_ELSEWHERE.items()))
def test_what_another_test_types_is_typed_there(page: str, test: str) -> None:
    """A page that is left out here is one that the named test reads its commands from."""
    assert page.removeprefix("docs/") in (REPOSITORY / test).read_text()


@pytest.mark.slow
def test_what_is_not_run_is_told(record_property) -> None:
    """The commands that nobody can run here are few, and printed with the reason."""
    told = []
    for page in all_pages():
        blocks = [part for part in parts_of(page) if isinstance(part, Block) and part.language in SHELLS]
        for command in (command for block in blocks for command in commands_of(block)):
            reason = reason_not_run(command.text)
            if reason:
                told.append(f"{command.place}: {command.text.splitlines()[0]} ({reason})")
    record_property("not run", told)
    assert len(told) <= 5
