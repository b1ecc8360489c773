"""The errors of the YAML library, as sentences for the author of the file."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["describe_yaml_error"]

# Part of the library's message; whether the line where the construct began is meant; the sentence.
_SENTENCES = (
    (r"found unexpected end of stream|quoted scalar", True, "a quoted text that begins here is not closed"),
    (r"mapping values are not allowed", False,
     "a wrong indentation, a key above without `:`, or a second `:` in this line: put a value with `: ` in quotes"),
    (r"could not find expected ':'", True, "expected `key: value`"),
    (r"block sequence entries are not allowed", False, "a `-` cannot stand here: begin a new line for a list"),
    (r"block mapping", False,
     "the indentation differs from the keys above, or a `-` stands next to keys: use the same number of spaces"),
    (r"block collection|block end", False, "the indentation differs from the lines above"),
    (r"flow mapping", True, "a `{` that begins here is not closed, or a comma is missing in it"),
    (r"flow sequence", True, "a `[` that begins here is not closed, or a comma is missing in it"),
    (r"undefined alias", False, "`*` begins an alias, and there is no such anchor: put the value in quotes"),
    (r"while scanning an? (alias|anchor)", False, "`*` or `&` begins this value: put the value in quotes"),
    (r"expected a single document", False, "`---` begins a second document, and only one is read: remove the line"),
    (r"cannot start any token", False, "this character cannot begin a value: put the value in quotes"),
    (r"constructor for the tag|find undefined tag|unknown tag|while (parsing|scanning) a (node|tag)", False,
     "`!` begins a tag, which is not supported here: write the value without it, or put it in quotes"),
    (r"unhashable key", False, "a key must be text: put braces and brackets in quotes"),
    (r"duplicate anchor", False, "this anchor exists already"),
    (r"merg", False, "`<<` merges only keys and values, such as those of an anchor"),
)  # fmt: skip


def describe_yaml_error(error: Any, text: str) -> tuple[int | None, str]:
    """Return the line, from 0, and a sentence for a MarkedYAMLError about ``text``."""
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark is not None else None
    if line is not None and "\t" in _indentation(text, line):
        return line, "a tab before the first word: YAML indents with spaces only"
    message = f"{error.context or ''} {error.problem or ''}"
    for pattern, is_at_begin, sentence in _SENTENCES:
        if re.search(pattern, message):
            begin = error.context_mark if is_at_begin else None
            return begin.line if begin is not None else line, sentence
    return line, " ".join(message.split())


def _indentation(text: str, line: int) -> str:
    lines = text.splitlines()
    return lines[line][: len(lines[line]) - len(lines[line].lstrip())] if line < len(lines) else ""
