"""What is redrawn at the bottom of a terminal while a stage runs; what is done stays above it, a line each."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from attrs import frozen
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from release_tasks.core.events import (
    BytesMoved,
    Event,
    GateBegan,
    GateEnded,
    HealthAnswered,
    LookTaken,
    Noted,
    StepBegan,
)
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.printable import printable
from release_tasks.report.layout import fitting_lines, shortened, wrapped
from release_tasks.report.terminal import Look, style_of
from release_tasks.report.transfers import Standing, Transfers, shown_size

__all__ = ["LiveDisplay", "health_line", "look_cells"]

_TICK = 0.1  # seconds between two drawings
_PATIENCE = 2.0  # seconds that a terminal which takes nothing is waited for in the end
_MOST_GATES = 12
_LOOKS_SHOWN = 10
_LEAST_BAR, _MOST_BAR = 5, 24
_COLUMNS = ("TIME", "LOOK", "HEALTH", "LATENCY", "BECAUSE")


@frozen(kw_only=True)
class _Signs:
    """The signs of a display. The spinner turns once a second."""

    mark: str = ">"
    ellipsis: str
    spinner: str
    full: str
    empty: str
    results: dict[str, str]


_UNICODE = _Signs(
    ellipsis="\u2026",
    spinner="\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f",
    full="\u2501",
    empty="\u2500",
    results={"passed": "\u2713", "failed": "\u2717", "skipped": "-"},
)
_ASCII = _Signs(
    ellipsis="...",
    spinner="|/-\\",
    full="#",
    empty=".",
    results={"passed": "+", "failed": "x", "skipped": "-"},
)


class LiveDisplay:
    """Shows events on a terminal. A thread of its own does all the writing.

    So whoever tells an event goes on at once, in mid-swap too, also while the terminal takes nothing (Ctrl-S).
    """

    def __init__(self, console: Console, look: Look) -> None:
        self._events: deque[tuple[float, Event]] = deque()
        self._is_over = threading.Event()
        self._drawer = _Drawer(console, look, self._events, self._is_over)
        self._thread = threading.Thread(target=self._drawer.run, name="display", daemon=True)

    def __enter__(self) -> LiveDisplay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():  # the cursor has to come back
            self._is_over.set()
            self._thread.join(_PATIENCE)

    def __call__(self, event: Event) -> None:
        """Show one event, soon."""
        self._events.append((time.monotonic(), event))  # atomic, as popleft is


def health_line(event: HealthAnswered, waited: float = 0.0) -> str:
    """Return how asking stands, ``waited`` seconds after the answer: attempt, what it was, time to the deadline."""
    report = event.report
    told = f"attempt {report.attempts}"
    if event.streak and event.needed > 1:
        told += f", {event.streak} of {event.needed} in a row"
    left = max(event.left - waited, 0.0)
    if left:  # before what was answered, which may be long and is cut off
        told += f", {left:.0f} s left"
    return f"{told}: {' '.join(report.detail.split())}"


def look_cells(look: LookTaken) -> tuple[str, str, str, str]:
    """Return finding, health, latency and the reason of one look."""
    because = "; ".join(look.why)
    if look.detail:
        because = f"{because} ({look.detail})" if because else look.detail
    latency = f"{look.latency_ms} ms" if look.latency_ms is not None else ""
    return look.finding, look.health or "", latency, printable(" ".join(because.split()))


class _Drawer:
    """The thread that writes: what it knows, and how that looks."""

    def __init__(
        self, console: Console, look: Look, events: deque[tuple[float, Event]], is_over: threading.Event
    ) -> None:
        self._console = console
        self._events = events
        self._is_over = is_over
        self._width = look.width or console.width
        self._signs = _UNICODE if look.is_unicode else _ASCII
        self._step: tuple[float, str] | None = None
        self._gates: dict[str, float] = {}
        self._asked: dict[str | None, tuple[float, HealthAnswered]] = {}
        self._transfers = Transfers()
        self._looks: deque[LookTaken] = deque(maxlen=_LOOKS_SHOWN)
        self._total = 0
        self._settled: list[Text] = []

    def run(self) -> None:
        """Draw until the end is told."""
        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        is_over = False
        try:
            while not is_over:
                # Not at each event: waking up for every file of a folder takes longer than to capture it.
                is_over = self._is_over.wait(_TICK)
                while self._events:
                    self._take(*self._events.popleft())
                lines = [] if is_over else self._drawn(time.monotonic())
                if lines and not live.is_started:
                    live.start()
                live.update(Text("\n").join(lines))
                self._write_settled()
                if live.is_started:
                    live.refresh()
        finally:
            live.stop()
        self._settle(time.monotonic())
        self._write_settled()

    def _take(self, now: float, event: Event) -> None:
        match event:
            case StepBegan():
                self._settle(now)
                self._step = (now, printable(str(event)))
            case Noted(sentence):
                self._settle_looks()
                self._settle_sentence(printable(sentence))
            case GateBegan(gate):
                self._gates[gate] = now
            case GateEnded(check):
                began = self._gates.pop(check.id, None)
                self._asked.pop(check.id, None)
                self._settled.append(self._gate_line(check.id, check.status, check.detail, began, now))
            case BytesMoved():
                self._transfers.take(event, now)
            case HealthAnswered():
                self._asked[event.gate] = (now, event)
            case LookTaken():
                self._looks.append(event)
                self._total += 1

    def _settle(self, now: float) -> None:
        """Write what is done for good."""
        self._settle_looks()
        if self._step is not None:
            began, told = self._step
            moved = self._transfers.moved()
            size = f"{shown_size(moved)}, " if moved else ""
            self._settle_sentence(f"{told}  {size}{now - began:.1f} s", "dim")
        self._step, self._transfers = None, Transfers()
        self._asked.pop(None, None)

    def _settle_sentence(self, text: str, style: str = "") -> None:
        for line in wrapped(f"{self._signs.mark} {text}", self._width, "  "):
            self._settled.append(Text(line, style=style))

    def _settle_looks(self) -> None:
        for line in self._look_lines():
            self._settled.append(line)
        self._looks.clear()
        self._total = 0

    def _write_settled(self) -> None:
        for line in self._settled:
            self._console.print(line, soft_wrap=True)
        self._settled.clear()

    def _drawn(self, now: float) -> list[Text]:
        lines = self._look_lines()
        turn = self._signs.spinner[int(now / _TICK) % len(self._signs.spinner)]
        if self._step is not None:
            began, told = self._step
            lines.append(self._fitted(f"{turn} {told}", f"  {now - began:.0f} s"))
        for gate, began in list(self._gates.items())[:_MOST_GATES]:
            asked = self._asked_line(gate, now)
            lines.append(self._fitted(f"{turn} gate {gate}  {now - began:.0f} s{'  ' if asked else ''}{asked}"))
        if len(self._gates) > _MOST_GATES:
            lines.append(self._fitted(f"  and {len(self._gates) - _MOST_GATES} more"))
        if asked := self._asked_line(None, now):
            lines.append(self._fitted(f"  {asked}"))
        lines += [self._transfer_line(standing) for standing in self._transfers.standings(now) if not standing.is_over]
        return lines

    def _asked_line(self, gate: str | None, now: float) -> str:
        if gate not in self._asked:
            return ""
        at, event = self._asked[gate]
        return printable(health_line(event, now - at))

    def _transfer_line(self, standing: Standing) -> Text:
        numbers = standing.numbers()
        keys = shortened(", ".join(standing.keys), 20, self._signs.ellipsis)
        label = shortened(f"  {standing.action} {keys}", max(self._width - len(numbers) - 3, 0), self._signs.ellipsis)
        room = min(self._width - 1 - cell_len(label) - len(numbers) - 4, _MOST_BAR)
        bar = ""
        if room >= _LEAST_BAR and standing.total:
            full = room * standing.done // standing.total
            bar = f"{self._signs.full * full}{self._signs.empty * (room - full)}  "
        return self._fitted(f"{label}  {bar}{numbers}")

    def _look_lines(self) -> list[Text]:
        if not self._looks:
            return []
        title = f"{self._total} look{'' if self._total == 1 else 's'}"
        rows = [(look.time[11:19], *look_cells(look)) for look in self._looks]
        # A line a look: its reason is cut off to what the other columns leave.
        others = sum(max(map(len, column)) + 2 for column in list(zip(_COLUMNS, *rows, strict=True))[:-1])
        room = max(self._width - 1 - others, 8)
        shown = [[*cells, shortened(because, room, self._signs.ellipsis)] for *cells, because in rows]
        lines = fitting_lines(_COLUMNS, shown, max(self._width - 1, others + room))
        drawn = [Text.assemble(*((part.text, style_of(part.word)) for part in parts)) for parts in lines]
        return [Text(title), *drawn]

    def _gate_line(self, gate: str, status: str, detail: str, began: float | None, now: float) -> Text:
        took = f"  {now - began:.1f} s" if began is not None else ""
        told = f"gate {gate}: {status}{took}"
        if status != "passed":
            told = f"{told}  {' '.join(printable(detail).split())}"
        sign = self._signs.results[status]
        line = self._fitted(f"{sign} {told}")
        line.stylize(style_of(status), 0, len(sign))
        return line

    def _fitted(self, line: str, tail: str = "") -> Text:
        # One cell less than there are: a full line makes some terminals begin another one.
        return Text(shortened(line, self._width - 1 - len(tail), self._signs.ellipsis) + tail)
