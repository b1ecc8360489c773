"""The output to a terminal, a log or a pipe, and what each of them can show.

A text may quote a service, a file or a person. It is shown on one printable line; only the method ``verdict`` writes a
line that begins with a word such as RESTORED.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, cast

from attrs import frozen
from rich.console import Console
from rich.text import Text

from release_tasks.core.printable import one_line, without_secrets
from release_tasks.core.runner import escape_commands
from release_tasks.core.streams import Wrapper, error_tolerant
from release_tasks.report.table import aligned_lines, fitting_lines, wrapped
from release_tasks.report.words import quoted_if_like_verdict, style_of

__all__ = ["Screen", "Terminal", "terminal_of", "wrapped_for_stderr"]

_CONTINUED = "  "  # begins each line after the first of a text
_LONGEST_WORD = 40
# RFC 3339 in UTC. A terminal shows seconds, without fractions; programs get the complete time.
_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")


@frozen(kw_only=True)
class Terminal:
    """What a stream can show.

    ``width`` is in cells, None for a log or a pipe. A stream that ``is_live`` may be redrawn and coloured.
    """

    is_live: bool
    is_unicode: bool
    width: int | None


def terminal_of(stream: IO[str], environ: Mapping[str, str]) -> Terminal:
    """Return what ``stream`` can show: it may be a full terminal, a dumb terminal, a log or a pipe."""
    is_terminal = False
    with contextlib.suppress(ValueError):  # the stream is closed
        is_terminal = stream.isatty()
    is_dumb = environ.get("TERM") in (None, "", "dumb")
    is_plain = bool(environ.get("NO_COLOR"))  # https://no-color.org: set and not empty
    is_ci = environ.get("CI", "").lower() not in ("", "0", "false")
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-")
    return Terminal(
        is_live=is_terminal and not (is_dumb or is_plain or is_ci),
        # In the C locale Python may write UTF-8 (PEP 540) to a terminal that does not support it.
        is_unicode=encoding in ("utf-8", "utf8") and locale not in ("C", "POSIX"),
        width=_width(stream, environ) if is_terminal else None,
    )


class Screen:
    """Writes answers to ``stream`` and progress to stderr."""

    def __init__(self, stream: IO[str]) -> None:
        self.terminal = terminal_of(stream, os.environ)
        self._out = _console(error_tolerant(stream), self.terminal)
        self.progress_terminal = terminal_of(sys.stderr, os.environ)
        self._err = _console(error_tolerant(sys.stderr), self.progress_terminal)

    def line(self, text: str = "") -> None:
        """Write one line, wrapped to the width of the terminal."""
        _print(self._out, _body(self.terminal, text))

    def verdict(self, status: str, message: str) -> None:
        """Write the result of a stage: its status word, then a message."""
        word = one_line(status.upper(), _LONGEST_WORD)
        first, *others = _wrapped_lines(self.terminal, f"{word}  {message}", _CONTINUED)
        self._out.print(Text.assemble((word, style_of(status) or "bold"), first[len(word) :]))
        _print(self._out, map(quoted_if_like_verdict, others))

    def note(self, *texts: str) -> None:
        """Write each text on a line of its own, indented below the line that it belongs to."""
        for text in texts:
            _print(self._out, _body(self.terminal, f"  {text}"))

    def step(self, text: str) -> None:
        """Write the current step on stderr."""
        _print(self._err, _body(self.progress_terminal, f"> {text}"))

    def live(self) -> Console | None:
        """Return the console of stderr for a live display, or None where stderr takes only lines."""
        return self._err if self.progress_terminal.is_live else None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows under their headings; a pipe gets one line for each row, with aligned columns."""
        if not rows:
            return
        cells = [[one_line(str(cell)) for cell in row] for row in rows]
        if self.terminal.width is None:
            _print(self._out, map(quoted_if_like_verdict, aligned_lines(columns, cells)))
            return
        shown = [[_TIME.sub(r"\1 \2", " ".join(cell.split())) for cell in row] for row in cells]
        for parts in fitting_lines(columns, shown, self.terminal.width):
            line = "".join(text for text, _ in parts)
            sign = quoted_if_like_verdict(line).removesuffix(line)
            self._out.print(Text.assemble(sign, *parts))


def wrapped_for_stderr(message: str, environ: Mapping[str, str]) -> str:
    """Return a message wrapped for stderr, for a caller that writes there itself; it may have several lines."""
    terminal = terminal_of(sys.stderr, environ)
    return escape_commands(
        "\n".join(part for line in without_secrets(message).split("\n") for part in _body(terminal, line))
    )


def _print(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(Text(line))


def _body(terminal: Terminal, text: str) -> list[str]:
    """Return the lines of a text that is no verdict."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    return [quoted_if_like_verdict(line) for line in _wrapped_lines(terminal, text, indent or _CONTINUED)]


def _wrapped_lines(terminal: Terminal, text: str, indent: str) -> list[str]:
    text = one_line(text.expandtabs())
    return [text] if terminal.width is None else wrapped(text, terminal.width, indent)


def _console(stream: IO[str], terminal: Terminal) -> Console:
    """Return a console that writes to ``stream``; it breaks no lines, and writes no escapes unless ``is_live``."""
    return Console(
        file=cast("IO[str]", _Encodable(stream)),
        color_system="standard" if terminal.is_live else None,
        force_terminal=terminal.is_live,
        force_interactive=terminal.is_live,
        no_color=not terminal.is_live,
        width=terminal.width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        legacy_windows=False,
    )


def _width(stream: IO[str], environ: Mapping[str, str]) -> int:
    columns = environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0
    with contextlib.suppress(OSError, ValueError):
        width = width or os.get_terminal_size(stream.fileno()).columns
    return max(width or 80, 20)


class _Encodable(Wrapper):
    """Replaces characters that the encoding of the stream does not have, where Python would raise.

    Every printed line passes here whole, so this class also removes commands to the runner of a CI system.
    """

    def write(self, text: str) -> int:
        text = escape_commands(text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._stream.write(text.encode(encoding, "replace").decode(encoding))
