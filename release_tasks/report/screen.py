"""What a terminal, a log or a pipe can show, and the one place that writes to it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

from attrs import frozen
from rich.console import Console
from rich.text import Text

from release_tasks.core.printable import printable
from release_tasks.core.runner import escape_commands
from release_tasks.report.table import aligned_lines, fitting_lines, wrapped
from release_tasks.report.words import style_of

__all__ = ["Screen", "Terminal", "for_person", "terminal_of", "unfailing"]

# RFC 3339 as we write it, in UTC. To the second it is as much as a person compares; programs get it whole.
_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")


@frozen(kw_only=True)
class Terminal:
    """What a stream can show. ``width`` is in cells, None for a log or a pipe.

    ``is_live`` says that it may be redrawn and coloured.
    """

    is_live: bool
    is_unicode: bool
    width: int | None


def terminal_of(stream: IO[str], environ: Mapping[str, str]) -> Terminal:
    """Return what ``stream`` can show: a terminal that takes it all, a poor one, a log, a pipe."""
    is_terminal = False
    with contextlib.suppress(ValueError):  # it is closed
        is_terminal = stream.isatty()
    is_poor = environ.get("TERM") in (None, "", "dumb")
    is_plain = bool(environ.get("NO_COLOR"))  # https://no-color.org: present and not empty
    is_ci = environ.get("CI", "").lower() not in ("", "0", "false")
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-")
    return Terminal(
        is_live=is_terminal and not (is_poor or is_plain or is_ci),
        # In the C locale Python may write UTF-8 all the same (PEP 540), which says nothing about the terminal.
        is_unicode=encoding in ("utf-8", "utf8") and locale not in ("C", "POSIX"),
        width=_width(stream, environ) if is_terminal else None,
    )


class Screen:
    """Writes answers to ``stream``, and what happens meanwhile to stderr."""

    def __init__(self, stream: IO[str]) -> None:
        self.look = terminal_of(stream, os.environ)
        self._out = _console(stream, self.look)
        self.progress_look = terminal_of(sys.stderr, os.environ)
        self._err = _console(unfailing(sys.stderr), self.progress_look)

    def line(self, text: str = "") -> None:
        """Write one line as it is, as far as it fits."""
        _print(self._out, self.look, text)

    def verdict(self, status: str, sentence: str) -> None:
        """Write the result of a stage: its word, then what it means."""
        word = status.upper()
        first, *others = _broken(self.look, f"{word}  {sentence}", "  ")
        self._out.print(Text.assemble((word, style_of(status) or "bold"), first[len(word) :]))
        for line in others:
            self._out.print(Text(line))

    def note(self, *texts: str) -> None:
        """Write what has to be known, each text on lines of its own, indented below what it belongs to."""
        for line in (line for text in texts for line in text.splitlines() or [""]):
            _print(self._out, self.look, f"  {line}", "  ")

    def step(self, text: str) -> None:
        """Write on stderr what is being done now."""
        _print(self._err, self.progress_look, f"> {text}", "  ")

    def live(self) -> Console | None:
        """Return the console of stderr for a display that is redrawn, or None where only lines can be written."""
        return self._err if self.progress_look.is_live else None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows under their headings; in a pipe, one line a row with the columns aligned."""
        if not rows:
            return
        cells = [[printable(str(cell)) for cell in row] for row in rows]
        if self.look.width is None:
            for line in aligned_lines(columns, cells):
                self._out.print(Text(line))
            return
        shown = [[_TIME.sub(r"\1 \2", " ".join(cell.split())) for cell in row] for row in cells]
        for parts in fitting_lines(columns, shown, self.look.width):
            self._out.print(Text.assemble(*parts))


def for_person(sentence: str, environ: Mapping[str, str]) -> str:
    """Return a sentence as it fits on stderr, for a caller that writes there itself."""
    look = terminal_of(sys.stderr, environ)
    return escape_commands("\n".join(part for line in printable(sentence).splitlines() for part in _broken(look, line)))


def unfailing(stream: IO[str]) -> IO[str]:
    """Return ``stream`` such that a terminal that hung up or a reader that went away raises nothing."""
    return cast("IO[str]", _Unfailing(stream))


def _print(console: Console, look: Terminal, text: str, indent: str = "") -> None:
    for line in _broken(look, text, indent):
        console.print(Text(line))


def _broken(look: Terminal, text: str, indent: str = "") -> list[str]:
    text = printable(text)
    return [text] if look.width is None else wrapped(text.expandtabs(), look.width, indent)


def _console(stream: IO[str], look: Terminal) -> Console:
    """Return what writes to ``stream``; it breaks no line itself, and without colours there is no escape at all."""
    return Console(
        file=cast("IO[str]", _Encodable(stream)),
        color_system="standard" if look.is_live else None,
        force_terminal=look.is_live,
        force_interactive=look.is_live,
        no_color=not look.is_live,
        width=look.width,
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


class _Wrapper:
    """A stream in front of another one."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Encodable(_Wrapper):
    """Replaces what the encoding of the stream does not have, where Python would raise.

    Lines come here whole and as they are printed, so this is where none of them may command the runner of a CI system.
    """

    def write(self, text: str) -> int:
        text = escape_commands(text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._stream.write(text.encode(encoding, "replace").decode(encoding))


class _Unfailing(_Wrapper):
    """Drops what a closed terminal or pipe does not take: the stage goes on all the same."""

    def write(self, text: str) -> int:
        with self._ignored():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._ignored():
            self._stream.flush()

    @contextlib.contextmanager
    def _ignored(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # it is closed
            pass
        except OSError:
            # What could not be written waits in a buffer, and would end the program with 120 when it is flushed then.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
