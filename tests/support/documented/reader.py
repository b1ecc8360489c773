"""Somebody who follows a page from top to bottom, types what it says and compares what comes with what it shows."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.documented.pages import SHELLS, Block, Command, commands_of, program_names
from tests.support.documented.table import (
    NOT_COMMANDS,
    PROGRAMS,
    before,
    documented_code,
    filled,
    outputs_like,
    project_of,
    reason_not_output,
    reason_not_run,
    state_of,
)
from tests.support.documented.worlds import STAND_INS, World

__all__ = ["Reader", "pattern_of"]


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
    return r"(?<!\w)" + r"\s*".join(pieces) + r"(?!\w)"


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
