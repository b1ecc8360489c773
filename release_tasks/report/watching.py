"""A watch as a person follows it: the newest looks while it runs, then its verdict."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from release_tasks.events import Event, LookTaken, Noted, StepBegan
from release_tasks.records import RollbackOutcome
from release_tasks.report.summaries import show_outcome
from release_tasks.report.terminal import Screen
from release_tasks.storage.printable import printable

__all__ = ["LookDisplay", "show_watch"]

_LOOKS_SHOWN = 10
_STYLES = {"ok": "green", "bad": "bold red", "unknown": "yellow"}


class LookDisplay:
    """Shows looks on stderr as they come: the last ones redrawn on a terminal, a line each elsewhere.

    Use it as a context manager; whatever else happens ends the redrawing.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._looks: deque[tuple[str, ...]] = deque(maxlen=_LOOKS_SHOWN)
        self._total = 0
        self._live: Live | None = None

    def __enter__(self) -> LookDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        """Show one event: a look, or what is being done now, below the looks."""
        if isinstance(event, LookTaken):
            self._look(event)
        elif isinstance(event, StepBegan | Noted):
            self._close()
            self._screen.step(str(event))

    def _look(self, look: LookTaken) -> None:
        self._total += 1
        self._looks.append(_row(look))
        console = self._screen.live()
        if console is None:
            self._screen.step("  ".join(cell for cell in self._looks[-1] if cell))
            return
        if self._live is None:
            # Redrawn only when there is something new, so that no thread of it writes between our lines.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> Table:
        # A line a look: what is taller than the terminal would be cut off at its newest end.
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title=f"{self._total} looks")
        for column, width in (("TIME", 8), ("LOOK", 7), ("HEALTH", 11), ("LATENCY", 8), ("BECAUSE", 20)):
            table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=width)
        for time, *cells in self._looks:
            table.add_row(time[11:19], *(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
        return table

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def show_watch(screen: Screen, report: dict[str, Any], outcome: RollbackOutcome | None) -> None:
    """Show how a watch ended and why, its rollback, and what comes next; ``report`` is what ``--json`` prints."""
    counts = report["counts"]
    numbers = ", ".join(f"{counts[word]} {word}" for word in ("ok", "bad", "unknown"))
    release = f"release {report['releaseId']}" if report["releaseId"] else "the service"
    screen.verdict(report["status"], f"{release}: {counts['looks']} looks, {numbers}")
    for sentence in report["reasons"]:
        screen.note(sentence)
    if outcome is not None:
        show_outcome(screen, outcome)
    for sentence in report["diagnostics"]:
        screen.note(sentence)


def _row(look: LookTaken) -> tuple[str, ...]:
    """Return time, finding, health, latency and the reason of one look."""
    because = "; ".join(look.why)
    if look.detail:
        because = f"{because} ({look.detail})" if because else look.detail
    latency = f"{look.latency_ms} ms" if look.latency_ms is not None else ""
    return look.time, look.finding, look.health or "", latency, printable(because.replace("\n", " "))
