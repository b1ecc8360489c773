"""What a person reads: tables and sentences, live where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from release_tasks.storage.printable import printable

__all__ = ["Screen"]

_STYLES = {
    "passed": "green", "ready": "green", "restored": "green", "noop": "green", "verified": "green", "ok": "green",
    "success": "green", "running": "green", "done": "green", "intact": "green", "clean": "green", "finished": "green",
    "failed": "bold red", "blocked": "bold red", "damaged": "bold red", "broken": "bold red", "unhealthy": "bold red",
    "refused": "bold red", "unreadable": "bold red",
    "skipped": "yellow", "degraded": "yellow", "unverifiable": "yellow", "in_progress": "yellow", "advisory": "yellow",
    "undone": "yellow", "discarded": "yellow", "stopped": "yellow", "approved": "green", "rejected": "yellow",
    "revoked": "yellow", "healthy": "green", "inconclusive": "yellow", "bad": "bold red",
}  # fmt: skip


class Screen:
    """Writes answers to ``stream`` and progress to stderr."""

    def __init__(self, stream: IO[str]) -> None:
        self._is_live = _is_live(stream)
        self._out = Console(file=stream, highlight=False, no_color=not self._is_live, soft_wrap=True)
        self._progress_is_live = _is_live(sys.stderr)
        self._err = Console(file=sys.stderr, highlight=False, no_color=not self._progress_is_live, soft_wrap=True)

    def line(self, text: str = "") -> None:
        """Write one line as it is."""
        self._out.print(Text(printable(text)))

    def verdict(self, status: str, sentence: str) -> None:
        """Write the result of a stage: its word, then what it means."""
        self._out.print(Text.assemble((status.upper(), _STYLES.get(status, "bold")), f"  {printable(sentence)}"))

    def note(self, text: str) -> None:
        """Write something that has to be known, indented below what it belongs to."""
        for line in text.splitlines() or [""]:
            self._out.print(Text(f"  {printable(line)}"))

    def step(self, text: str) -> None:
        """Tell on stderr what is being done now."""
        self._err.print(Text(f"> {printable(text)}", style="dim" if self._progress_is_live else ""))

    def live(self) -> Console | None:
        """Return the console of stderr for a display that is redrawn, or None where only lines can be written."""
        return self._err if self._progress_is_live else None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows under their headings; in a pipe, one line a row with the columns aligned."""
        if not rows:
            return
        rows = [[printable(str(cell)) for cell in row] for row in rows]
        if not self._is_live:
            widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
            for row in (columns, *rows):
                cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
                self._out.print(Text("  ".join(cells).rstrip()))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell), style=_STYLES.get(str(cell), "")) for cell in row))
        self._out.print(table, soft_wrap=False)


def _is_live(stream: IO[str]) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") not in (None, "dumb")
