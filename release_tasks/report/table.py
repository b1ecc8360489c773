"""Line breaks and column widths, measured in the cells of a terminal; without side effects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from rich.cells import cell_len

from release_tasks.core.typed import command_pattern
from release_tasks.report.words import style_of

__all__ = ["Line", "aligned_lines", "fitting_lines", "shortened", "wrapped"]

_GAP = "  "
_INDENT = "  "
_LEAST_PROSE = 24  # cells: a sentence in a narrower column cannot be read
# A command stays on one line, because people copy it: `inv release.rollback` without `--snapshot ID` is complete too.
_COMMAND = (
    r"`[^`]+`|{start}"
    r"(?: --[\w-]+(?:[ =](?!-)[\w./:@%+{{}}-]+)?| [A-Z][A-Z0-9]+\b| (?:telegram|whatsapp)\b|(?<=gate\.run) [\w.-]+)*"
)
_GLUE = "\x00"


Line = list[tuple[str, str]]  # pieces of text with their styles, the input of rich.text.Text.assemble


def aligned_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for the headings and a line for each row, with aligned columns of full width."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return ``text`` in lines of at most ``width`` cells; ``indent`` begins each line after the first.

    Lines break between words. A word or a command that is longer than a line is not broken, so that it can be copied.
    """
    if cell_len(text) <= width:
        return [text]
    lead = text[: len(text) - len(text.lstrip(" "))]
    command = _COMMAND.format(start=command_pattern())
    glued = re.sub(command, lambda found: found[0].replace(" ", _GLUE), text[len(lead) :])
    lines, line = [], lead
    for word in re.split(r"(?<=\S) ", glued):
        word = word.replace(_GLUE, " ")
        is_first = not line.strip()
        if not is_first and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line, is_first = indent, True
        line += word.lstrip(" ") if is_first and lines else word if is_first else f" {word}"
    return [*lines, line]


def shortened(text: str, width: int, ellipsis: str) -> str:
    """Return ``text`` cut to ``width`` cells, with ``ellipsis`` at the end if it was cut."""
    return text if cell_len(text) <= width else _head(text, max(width - cell_len(ellipsis), 0)) + ellipsis


def fitting_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Line]:
    """Return headings and rows in lines of at most ``width`` cells, each piece in the style of its cell.

    Sentences are wrapped first. If that is not enough, the widest columns move out of the row: the first column to a
    line above it, any other to a line below it, with its name. Only a word that is longer than a line is broken.
    """
    cells = [(heading, *(row[index] for row in rows)) for index, heading in enumerate(columns)]
    needs = [_need(column) for column in cells]
    inside, below, space = list(range(len(columns))), set[int](), width
    while len(inside) > 1 and sum(needs[index] for index in inside) + len(_GAP) * (len(inside) - 1) > space:
        widest = max(inside, key=lambda index: needs[index])
        inside.remove(widest)
        if widest == 0:
            space = width - len(_INDENT)
        else:
            below.add(widest)
    above = 0 not in inside
    naturals = {index: max(map(cell_len, cells[index])) for index in inside}
    widths = _shared(naturals, {index: needs[index] for index in inside}, space)
    lead = _INDENT if above else ""
    lines = [[(columns[0], style_of("heading"))]] if above else []
    lines += _row_lines(columns, widths, lead, is_heading=True)
    for row in rows:
        if above:
            lines += [[(piece, style_of(row[0]))] for piece in _folded(row[0], width)]
        lines += _row_lines(row, widths, lead)
        for index in sorted(below):
            if row[index]:
                label = f"{_INDENT}{columns[index].lower()}: "
                lines += [[(piece, "")] for piece in _folded(label + row[index], width, _INDENT * 2)]
    return lines


def _row_lines(row: Sequence[str], widths: dict[int, int], lead: str, is_heading: bool = False) -> list[Line]:
    cells = {index: _folded(row[index], width) for index, width in widths.items()}
    lines = []
    for number in range(max((len(cell) for cell in cells.values()), default=0)):
        parts = [(lead, "")] if lead else []
        last = max((i for i, cell in cells.items() if number < len(cell) and cell[number]), default=-1)
        for index, cell in cells.items():
            if index > last:
                break
            piece = cell[number] if number < len(cell) else ""
            parts.append((piece, style_of("heading" if is_heading else row[index])))
            if index != last:
                parts.append((" " * (widths[index] - cell_len(piece)) + _GAP, ""))
        lines.append(parts)
    return lines


def _need(cells: Sequence[str]) -> int:
    """Return the smallest width of a column: its longest word, and for sentences at least ``_LEAST_PROSE``."""
    longest = max(cell_len(word) for cell in cells for word in cell.split(" "))
    return max(longest, min(max(map(cell_len, cells)), _LEAST_PROSE))


def _shared(natural: dict[int, int], needs: dict[int, int], space: int) -> dict[int, int]:
    """Return the width of each column: its need, and an even share of the remaining space up to its natural width."""
    space -= len(_GAP) * (len(natural) - 1)
    widths = {index: min(need, space) for index, need in needs.items()}
    spare = space - sum(widths.values())
    while spare > 0 and (growing := [index for index in widths if widths[index] < natural[index]]):
        for index in growing[:spare]:
            widths[index] += 1
            spare -= 1
    return widths


def _folded(text: str, width: int, indent: str = "") -> list[str]:
    """Return ``text`` in lines of at most ``width`` cells; a longer word is broken."""
    folded = []
    for line in wrapped(text, width, indent):
        while cell_len(line) > width:
            folded.append(_head(line, width))
            line = indent + line[len(folded[-1]) :]
        folded.append(line)
    return folded


def _head(text: str, width: int) -> str:
    """Return as many characters of ``text`` as fit into ``width`` cells, at least one."""
    sizes = accumulate(map(cell_len, text))
    return text[: next((index for index, size in enumerate(sizes) if size > width and index), None)]
