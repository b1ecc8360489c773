"""The commands that messages name, in the form that works for the person who reads them.

The form belongs to the command line that runs: its program (``inv``, ``release-tasks``), the options by which it found
the project, and the names that the project's tasks.py gave the tasks of the suite.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from release_tasks.core.printable import printable

__all__ = ["Form", "command_pattern", "quoted", "typed", "typed_as"]


@dataclass(frozen=True)
class Form:
    """How a command is typed. ``program`` includes its options.

    ``names`` maps a task of the suite to its name in the project; None for the names of the suite. A task that the
    project does not have is typed with ``fallback``, the program that has every task.
    """

    program: tuple[str, ...] = ("inv",)
    names: Mapping[str, str] | None = None
    fallback: tuple[str, ...] = ("release-tasks",)

    def command(self, task: str, *words: str) -> str:
        """Return the line to type for ``task``, such as ``release.rollback``; words are quoted for a shell."""
        name = task if self.names is None else self.names.get(task)
        parts = (*self.fallback, task) if name is None else (*self.program, name)
        return " ".join(map(quoted, (*parts, *words)))


def quoted(word: str) -> str:
    r"""Return ``word`` quoted for a shell, and printable: a terminal acts on control characters that are pasted.

    A word with such characters, or with bytes that are not UTF-8, is written as ``$'a\x1bb'`` (bash, ksh, zsh, and
    POSIX since 2024).
    """
    if printable(word) == word and not set("\t\n") & set(word):
        return shlex.quote(word)
    written = "".join(
        f"\\{character}"
        if character in "\\'"
        else character
        if printable(character) == character and character not in "\t\n"
        else "".join(f"\\x{byte:02x}" for byte in _bytes_of(character))
        for character in word
    )
    return f"$'{written}'"


def _bytes_of(character: str) -> bytes:
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is not UTF-8 (PEP 383)
    return character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")


# Not a context variable: gates and notifications write commands in threads of their own.
_form = Form()


def typed(task: str, *words: object) -> str:
    """Return the command that runs ``task`` of the suite with these flags and values."""
    return _form.command(task, *map(str, words))


@contextmanager
def typed_as(form: Form) -> Iterator[None]:
    """Let messages name commands in this form while the block runs."""
    global _form
    outer, _form = _form, form
    try:
        yield
    finally:
        _form = outer


def command_pattern() -> str:
    """Return a regular expression for the program and the task of a command in a text."""
    used = {" ".join(map(quoted, program)) for program in (_form.program, _form.fallback)}
    programs = map(re.escape, sorted({"inv", "release-tasks", *used}, key=len, reverse=True))
    return rf"(?<![\w/.-])(?:{'|'.join(programs)}) [\w-]+(?:\.[\w-]+)*"
