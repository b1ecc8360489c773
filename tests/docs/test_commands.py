"""Every command in README.md and docs/ is typed for real, in a project in the state that its page speaks of."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from documented.pages import REPOSITORY, SHELLS, Block, Command, all_pages, commands_of, parts_of, program_names
from documented.table import (
    NOT_COMMANDS,
    PROGRAMS,
    TYPED_ELSEWHERE,
    before,
    documented_code,
    filled,
    outputs_like,
    project_of,
    reason_not_output,
    reason_not_run,
    state_of,
)
from documented.worlds import STAND_INS, World, make_template

LONG = 300
"""A page of more lines is taken chapter by chapter, so that several workers can share it."""


def is_typed(part: Block | Command) -> bool:
    """Say whether there is something to type, or to compare with what is printed."""
    if isinstance(part, Command):
        return True
    return part.language == "text" or (part.language in SHELLS and part.page not in TYPED_ELSEWHERE)


def chapters() -> list[Any]:
    """Each page that has commands, or each chapter of it where there are many; read without a shell: all collect it."""
    found = []
    for page in all_pages():
        parts = [part for part in parts_of(page) if is_typed(part)]
        groups = [("", parts)]
        if parts and parts[-1].line > LONG:
            groups = [(name, list(group)) for name, group in groupby(parts, key=lambda part: part.chapter)]
        found += [pytest.param(group, id=f"{page}#{name}" if name else page) for name, group in groups if group]
    return found


def pattern_of(text: str) -> str:
    """Turn an output on a page into what the real one must look like: numbers, ids and digests may be others.

    ``...`` stands for anything, and lines may be broken elsewhere.
    """
    pieces = []
    for word in text.split():
        word = re.sub(r"^(?=[A-Z]*\d)[A-HJ-NP-Z2-9]{8}$", "\4", word)
        word = re.sub(r"\b[\w.-]+?_snapshot_\d{14}(-[0-9a-f]{6})?", "\3", word)
        piece = re.sub(r"(?<![0-9a-zA-Z])(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{6,64}(?![0-9a-zA-Z])", "\0", word)
        piece = re.sub(r"\d+", "\1", piece.replace("...", "\2"))
        pieces.append(
            re.escape(piece)
            .replace("\0", "[0-9a-f]+")
            .replace("\1", r"[0-9a-f]+")
            .replace("\2", ".*?")
            .replace("\3", r"[\w.-]+")
            .replace("\4", "[A-Z2-9]{8}")
        )
    return r"\s*".join(pieces)


class Reader:
    """Somebody who follows a page from top to bottom and types what it says."""

    def __init__(self, template: Path, folder: Path) -> None:
        self.template = template
        self.folder = folder
        self.world: World | None = None
        self.heading: str | None = None
        self.is_special = False
        self.problems: list[str] = []
        self.typed: set[str] = set()
        self.number = 0

    def follow(self, parts: list[Block | Command]) -> None:
        shown = ""
        for part in parts:
            if isinstance(part, Command):
                self.type(part)
            elif part.language in SHELLS:
                shown = "".join(self.type(command) for command in commands_of(part))
            else:
                self.compare(part, shown)

    def type(self, command: Command) -> str:
        """Type one command; returns what it printed."""
        if command.text in NOT_COMMANDS or reason_not_run(command.text):
            return ""
        unknown = program_names(command.text) - PROGRAMS
        if unknown:
            self.problems.append(f"{command.place}: the table knows nothing of {', '.join(sorted(unknown))}")
            return ""
        world = self.world_for(command)
        if command.is_span and command.text in self.typed:
            return ""
        self.typed.add(command.text)
        prepared = before(command)
        if prepared:
            prepared(world)
        calls = len(world.calls())
        line = filled(world, command.text)
        answer = world.run(line)
        wanted = documented_code(command)
        if answer.code != wanted:
            told = answer.output.strip()[-700:]
            self.problems.append(f"{command.place}: {line}\n  ended with {answer.code}, not {wanted}:\n{told}")
        if "Traceback" in answer.output:
            self.problems.append(f"{command.place}: {line}\n  shows a traceback")
        if program_names(command.text) & {*STAND_INS, "./deploy.sh"} and len(world.calls()) == calls:
            self.problems.append(f"{command.place}: {line}\n  called nothing")
        return answer.output

    def compare(self, block: Block, shown: str) -> None:
        """Hold that an output on the page is the output's real form."""
        if reason_not_output(block):
            return
        outputs = [shown] if block.answers else [self.output_of(*known) for known in outputs_like(block)]
        if not outputs:
            self.problems.append(
                f"{block.place}: a text block that no command stands before, and the table does not know"
            )
        elif not any(re.search(pattern_of(block.text), output, re.DOTALL) for output in outputs):
            told = "\nor\n".join(outputs)
            self.problems.append(f"{block.place}: the page shows\n{block.text}and it is\n{told}")

    def output_of(self, state: Callable[[World], None], command: str, code: int) -> str:
        """What a command prints in a project of its own, brought into a state for it."""
        self.number += 1
        with contextlib.closing(World(self.folder / f"world-{self.number}", self.template)) as world:
            state(world)
            line = filled(world, command)
            answer = world.run(line)
        if answer.code != code:
            self.problems.append(f"{line}\n  ended with {answer.code}, not {code}:\n{answer.output}")
        return answer.output

    def world_for(self, command: Command) -> World:
        """The project in the state that the heading speaks of, kept for as long as headings speak of no other."""
        if command.heading != self.heading:
            self.heading = command.heading
            state = state_of(command.page, command.heading)
            if state or self.is_special:
                self.leave()
            self.is_special = state is not None
        if self.world is None:
            self.number += 1
            self.typed.clear()
            self.world = World(self.folder / f"world-{self.number}", self.template)
            (state_of(command.page, command.heading) or project_of(command.page))(self.world)
        return self.world

    def leave(self) -> None:
        if self.world is not None:
            self.world.close()
            shutil.rmtree(self.world.folder)
            self.world = None


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
