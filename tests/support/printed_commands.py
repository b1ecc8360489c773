"""The commands that an output tells a person to type, exactly as they are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen
from invoke import Collection
from invoke.parser import ParserContext

from release_tasks.core.typed import command_pattern

__all__ = ["PrintedCommand", "commands_in", "texts_of"]

# With options before the task, which command_pattern knows only for the command line that runs.
_WITH_OPTIONS = r"(?<![\w/.-])(?:inv|release-tasks)(?: --?[a-z][\w-]* \S+)+ (?:TASK|[\w-]+\.[\w.-]*\w)"
_WORD = re.compile(r" ((?:'[^']*'|[^\s'`])+)")
_END_OF_SENTENCE = ".,;:)"


@frozen
class PrintedCommand:
    """One command: the line to type, and what makes it different from others: its task, its flags and names."""

    line: str
    kind: tuple[str, ...]


def texts_of(out: str) -> Iterator[str]:
    """Yield what a person reads in an output: its lines, or each text of a JSON document without its escapes."""
    try:
        yield from _texts_in(json.loads(out))
    except ValueError:
        yield out


def commands_in(text: str, namespace: Collection) -> Iterator[PrintedCommand]:
    """Yield each command of a text. ``namespace`` tells which words after the task are part of the command."""
    contexts = {context.name: context for context in namespace.to_contexts()}
    for found in re.finditer(rf"{_WITH_OPTIONS}|{command_pattern()}", text):
        task = found[0].rsplit(" ", 1)[1]
        if "." in task or task == "TASK":
            end, names = _end_of(text, found.end(), contexts.get(task))
            if text[found.start() - 1 : found.start()] == "`":
                end = max(end, text.find("`", end))  # all of it, so that a value without quotes is not overlooked
            yield PrintedCommand(text[found.start() : end], (task, *names))


def _end_of(text: str, end: int, context: ParserContext | None) -> tuple[int, list[str]]:
    """Return where the command ends, and the flags and positional words that it has."""
    flags: Mapping[str, Any] = context.flags if context is not None else {}
    positionals = len(context.positional_args) if context is not None else 0
    names: list[str] = []
    awaits_value = False
    while (found := _WORD.match(text, end)) is not None:
        word = found[1].rstrip(_END_OF_SENTENCE)
        is_flag = re.match(r"--?\w", word) is not None
        if not is_flag and not awaits_value and positionals == 0:
            break
        if is_flag or not awaits_value:
            names.append(word)
            positionals -= not is_flag
        flag = flags.get(word.split("=")[0]) if is_flag else None
        awaits_value = flag is not None and bool(flag.takes_value) and "=" not in word
        end = found.start(1) + len(word)
        if word != found[1]:
            break
    return end, names


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)
