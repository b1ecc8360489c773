"""Parsed pages: every fenced block and every command in the running text, with its position."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

__all__ = ["REPOSITORY", "Block", "Command", "all_pages", "commands_of", "parts_of", "program_names"]

REPOSITORY = Path(__file__).parents[3]
SHELLS = ("sh", "console")

_TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>```+)(?P<language>[\w-]*) *$")
_HEADING = re.compile(r"^(#{1,6}) +(.*?) *$")
_SPAN = re.compile(r"(?<!`)`((?:inv|release-tasks) [^`]+)`(?!`)")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\2$", re.DOTALL | re.MULTILINE)


@frozen
class Block:
    """A fenced block; ``answers`` says that it directly follows a shell block."""

    page: str
    line: int
    chapter: str
    heading: str
    language: str
    text: str
    answers: bool = False

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@frozen
class Command:
    """One command, from a shell block or from the running text."""

    page: str
    line: int
    chapter: str
    heading: str
    text: str
    is_span: bool = False

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def all_pages() -> list[str]:
    """Return README.md, CONTRIBUTING.md, SECURITY.md and every page of docs/, relative to the repository."""
    return [*_TOP, *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md"))]


def parts_of(page: str) -> list[Block | Command]:
    """Return blocks, and commands in the running text, in the order of the page.

    An HTML comment counts as text: it is for editors of the page.
    """
    found: list[Block | Command] = []
    prose: list[str] = []
    chapter, heading, prose_line, last = "", "", 1, None
    lines = (REPOSITORY / page).read_text().split("\n")
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            title = _HEADING.match(lines[number])
            if title or not lines[number].strip():
                found += _spans((page, prose_line, chapter, heading), prose)
                prose, prose_line = [], number + 2
            if title:
                heading, last = title[2], None
                chapter = title[2] if len(title[1]) <= 2 else chapter
            elif lines[number].strip():
                prose.append(lines[number])
                last = None
            number += 1
            continue
        found += _spans((page, prose_line, chapter, heading), prose)
        end = number + 1
        while lines[end].strip() != opening["mark"]:
            end += 1
        text = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
        answers = last in SHELLS and opening["language"] == "text"
        found.append(Block(page, number + 2, chapter, heading, opening["language"], text, answers))
        last, prose, prose_line, number = opening["language"], [], end + 2, end + 1
    return found + list(_spans((page, prose_line, chapter, heading), prose))


def _spans(place: tuple[str, int, str, str], prose: list[str]) -> Iterator[Command]:
    page, line, chapter, heading = place
    text = "\n".join(prose)
    for found in _SPAN.finditer(text):
        command = " ".join(found[1].replace("\\|", "|").split())
        yield Command(page, line + text.count("\n", 0, found.start()), chapter, heading, command, is_span=True)


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a shell block, split as a shell does."""
    found: list[Command] = []
    pending: list[str] = []
    start = block.line
    lines = block.text.rstrip("\n").split("\n")
    if block.language == "console":
        lines = [line.removeprefix("$ ") if line.startswith("$ ") else "" for line in lines]
    for number, line in enumerate(lines, start=block.line):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not pending:
            start = number
        pending.append(line)
        if _is_complete("\n".join(pending)):
            found.append(Command(block.page, start, block.chapter, block.heading, "\n".join(pending)))
            pending = []
    assert not pending, f"{block.page}:{start}: no shell would take this: {pending}"
    return found


def _is_complete(text: str) -> bool:
    if text.endswith("\\"):
        return False
    checked = subprocess.run(["bash", "-n"], input=text + "\n", capture_output=True, text=True)
    return checked.returncode == 0 and not checked.stderr


def program_names(command: str) -> set[str]:
    """Return the programs that a command line starts, as far as this is known without a shell."""
    text = _HEREDOC.sub(r"\3", command + "\n")
    text = re.sub(r"'[^']*'", "'q'", text)
    text = re.sub(r'"(?:\\.|[^"\\])*"', _only_substitutions, text, flags=re.DOTALL)
    text = re.sub(r"(?m)(^|\s)#.*$", "", text).replace("\\\n", " ")
    names: set[str] = set()
    for part in re.split(r"\|\||&&|[|;&\n]|\$?\(|\)|`", re.sub(r"\d*>>?&?\d*\s*[^\s|;&()]*|<\s*\S+", " ", text)):
        words = part.split()
        while words and (re.match(r"\w+=", words[0]) or words[0] in ("then", "do", "else", "if", "while", "!", "{")):
            words.pop(0)
        if words and words[0] not in ("fi", "done", "}", "for", "q", "'q'"):
            names.add(words[0].strip("\"'"))
    return names


def _only_substitutions(quoted: re.Match[str]) -> str:
    inner = re.findall(r"\$\(([^()]*)\)", quoted[0])
    return "q" + "".join(f" $({text})" for text in inner)
