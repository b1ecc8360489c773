"""A reader of a page, who types its commands and compares their output with the page."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.documented.example_project import STAND_INS, ExampleProject
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

__all__ = ["Reader", "pattern_of"]


def pattern_of(text: str) -> str:
    """Turn an output on a page into a pattern for the real one: numbers, ids and digests may differ.

    ``...`` matches anything, and line breaks may differ.
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
    """Follows a page from top to bottom and types its commands."""

    def __init__(self, template: Path, folder: Path) -> None:
        self.template = template
        self.folder = folder
        self.example: ExampleProject | None = None
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
        """Type one command; return what it printed."""
        if command.text in NOT_COMMANDS or reason_not_run(command.text):
            return ""
        unknown = program_names(command.text) - PROGRAMS
        if unknown:
            self.problems.append(f"{command.place}: the table knows nothing of {', '.join(sorted(unknown))}")
            return ""
        example = self.project_for(command)
        if command.is_span and command.text in self.typed:
            return ""
        self.typed.add(command.text)
        prepared = before(command)
        if prepared:
            prepared(example)
        calls = len(example.calls())
        line = filled(example, command.text)
        answer = example.run(line)
        expected = documented_code(command)
        if answer.code != expected:
            reported = answer.output.strip()[-700:]
            self.problems.append(f"{command.place}: {line}\n  ended with {answer.code}, not {expected}:\n{reported}")
        if "Traceback" in answer.output:
            self.problems.append(f"{command.place}: {line}\n  shows a traceback")
        if program_names(command.text) & {*STAND_INS, "./deploy.sh"} and len(example.calls()) == calls:
            self.problems.append(f"{command.place}: {line}\n  called nothing")
        return answer.output

    def compare(self, block: Block, shown: str) -> None:
        """Check an output on the page against the printed one."""
        if reason_not_output(block):
            return
        outputs = [shown] if block.answers else [self.output_of(*known) for known in outputs_like(block)]
        if not outputs:
            self.problems.append(
                f"{block.place}: a text block that no command stands before, and the table does not know"
            )
        elif not any(re.search(pattern_of(block.text), output, re.DOTALL) for output in outputs):
            reported = "\nor\n".join(outputs)
            self.problems.append(f"{block.place}: the page shows\n{block.text}and it is\n{reported}")

    def output_of(self, state: Callable[[ExampleProject], None], command: str, code: int) -> str:
        """Return what a command prints in a fresh project in ``state``."""
        self.number += 1
        with contextlib.closing(ExampleProject(self.folder / f"example-{self.number}", self.template)) as example:
            state(example)
            line = filled(example, command)
            answer = example.run(line)
        if answer.code != code:
            self.problems.append(f"{line}\n  ended with {answer.code}, not {code}:\n{answer.output}")
        return answer.output

    def project_for(self, command: Command) -> ExampleProject:
        """Return the project in the state of the heading; it is used until a heading names another state."""
        if command.heading != self.heading:
            self.heading = command.heading
            state = state_of(command.page, command.heading)
            if state or self.is_special:
                self.leave()
            self.is_special = state is not None
        if self.example is None:
            self.number += 1
            self.typed.clear()
            self.example = ExampleProject(self.folder / f"example-{self.number}", self.template)
            (state_of(command.page, command.heading) or project_of(command.page))(self.example)
        return self.example

    def leave(self) -> None:
        if self.example is not None:
            self.example.close()
            shutil.rmtree(self.example.folder)
            self.example = None
