"""The progress of a stage: redrawn at the bottom of a terminal, or as lines in a log."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from attrs import frozen
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column
from rich.text import Text

from release_tasks.core.events import (
    BytesMoved,
    Event,
    GateBegan,
    GateEnded,
    HealthAnswered,
    Noted,
    SampleTaken,
    StepBegan,
)
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.printable import one_line
from release_tasks.core.records import Check
from release_tasks.core.threads import start_if_possible
from release_tasks.core.units import rough_span, show_counter, show_seconds
from release_tasks.report.screen import Screen, Terminal
from release_tasks.report.table import fitting_lines, shortened, wrapped
from release_tasks.report.words import SIGNS, meaning_of, quoted_if_like_verdict, style_of

__all__ = ["LiveDisplay", "PlainLines", "Transfers"]

_WINDOW = 5.0  # seconds over which a rate is measured: steady enough to read, short enough to show a stall
_SAMPLING = 0.2  # seconds between two samples of a rate: each small file of a folder would be a sample otherwise
_QUIET = 10.0  # seconds between two lines in a log about one long action
_UNREMARKABLE = 2.0  # seconds that a service may be unhealthy before a log has a line about it
_TICK = 0.1  # seconds between two frames
_GRACE = 2.0  # seconds to wait at the end for a terminal that accepts no output
_MOST_GATES = 12
_LEAST_BAR, _MOST_BAR = 5, 16
_COLUMNS = ("TIME", "SAMPLE", "HEALTH", "LATENCY", "REASON")


class Transfers(Progress):
    """The bytes of one step: a task for each action, over all of its assets.

    ``get_time`` is in seconds since some fixed moment.
    """

    def __init__(self, *columns: ProgressColumn, get_time: Callable[[], float]) -> None:
        super().__init__(*columns, auto_refresh=False, speed_estimate_period=_WINDOW, get_time=get_time)

    def take(self, event: BytesMoved) -> Task:
        """Record one event; returns the task of its action."""
        task = next((task for task in self.tasks if task.description == event.action), None)
        if task is None:
            self.add_task(event.action, total=0, assets={}, sampled=-math.inf)
            task = self.tasks[-1]
        task.fields["assets"][event.key] = (event.done, event.total)
        # Not by update(), which resets the rate when the total changes, as it does with each new asset.
        task.total = sum(total for _, total in task.fields["assets"].values())
        self.sample(task)
        return task

    def sample(self, task: Task) -> None:
        """Sample the rate if the last sample is old enough; call it during a stall too, so that the rate falls."""
        if self.get_time() - task.fields["sampled"] >= _SAMPLING:
            self.update(task.id, completed=done_of(task), sampled=self.get_time())

    def moved(self) -> int:
        """Return the bytes of the action that moved most, so that bytes read by several actions count once."""
        return max(map(done_of, self.tasks), default=0)


def done_of(task: Task) -> int:
    """Return the bytes that an action has moved, over all assets."""
    return sum(done for done, _ in task.fields["assets"].values())


def keys_of(task: Task) -> list[str]:
    """Return the unfinished assets of an action."""
    return [key for key, (done, total) in task.fields["assets"].items() if done < total]


def numbers_of(task: Task) -> str:
    """Return bytes, rate and remaining time of an action, as far as they are known."""
    done, total = done_of(task), int(task.total or 0)
    line = f"{show_counter(done, total)} of {show_counter(total)}"
    if task.speed:
        line += f", {show_counter(int(task.speed))}/s"
        if done < total:
            line += f", {rough_span(math.ceil((total - done) / task.speed))} left"
    return line


def health_line(event: HealthAnswered, waited: float = 0.0) -> str:
    """Return attempt, time to the deadline and answer of a health check, ``waited`` seconds after the answer."""
    report = event.report
    line = f"attempt {report.attempts}"
    if event.streak and event.needed > 1:
        line += f", {event.streak} of {event.needed} in a row"
    left = max(event.left - waited, 0.0)
    if left:  # before the answer, which may be long and is cut off
        line += f", {left:.0f} s left"
    return f"{line}: {' '.join(report.detail.split())}"


def sample_cells(sample: SampleTaken) -> tuple[str, str, str, str]:
    """Return finding, health, latency and reason of one sample."""
    reason = "; ".join(sample.why)
    if sample.detail and sample.detail not in reason:
        reason = f"{reason} ({sample.detail})" if reason else sample.detail
    latency = f"{sample.latency_ms} ms" if sample.latency_ms is not None else ""
    return sample.finding, one_line(sample.health or ""), latency, one_line(" ".join(reason.split()))


class PlainLines:
    """Writes a line for each start and end of an action, and one every ten seconds for a long action.

    A wait for an unhealthy service is reported after two seconds for the first time.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._transfers, self._last = Transfers(get_time=self._clock), self._clock()
        self._next_wait: dict[str, float] = {}  # by the gate that waits: the time of its next line

    def __call__(self, event: Event) -> None:
        """Write the line of one event, if it has one."""
        with self._lock:
            match event:
                case StepBegan():
                    self._begin()
                    self._screen.step(str(event))
                case Noted():
                    self._screen.step(str(event))
                case GateBegan(gate):
                    self._screen.step(f"gate {gate}")
                case GateEnded(check):
                    self._screen.step(f"gate {check.id}: {check.status}")
                case SampleTaken():
                    self._screen.step("  ".join(cell for cell in (event.time, *sample_cells(event)) if cell))
                case BytesMoved():
                    task = self._transfers.take(event)
                    self._write_rarely(lambda: f"{event.action}: {numbers_of(task)}")
                case HealthAnswered():
                    self._wait(event)

    def say(self, text: str) -> None:
        """Write a line about no event."""
        with self._lock:
            self._screen.step(text)

    def _wait(self, event: HealthAnswered) -> None:
        now, gate = self._clock(), event.gate or "health"
        if now >= self._next_wait.setdefault(gate, now + _UNREMARKABLE):
            self._next_wait[gate] = now + _QUIET
            self._screen.step(f"{gate}: {health_line(event)}")

    def _write_rarely(self, line: Callable[[], str]) -> None:
        now = self._clock()
        if now - self._last >= _QUIET:
            self._last = now
            self._screen.step(line())


@frozen
class _Cell:
    """Text that adapts to its width: ``text`` returns it for a number of cells, and it needs at most ``most``."""

    text: Callable[[int], str]
    most: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(self.text(options.max_width), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, self.most)


class _Column(ProgressColumn):
    """A column of cells; it gets narrower on a narrow terminal if it ``shrinks``."""

    def __init__(self, cell: Callable[[Task], _Cell], *, shrinks: bool = True) -> None:
        super().__init__(Column(no_wrap=not shrinks))
        self._cell = cell

    def render(self, task: Task) -> _Cell:
        return self._cell(task)


class LiveDisplay:
    """Shows events on a terminal. A thread of its own does all the writing.

    So the emitter of an event never waits for the terminal, not even while Ctrl-S stops its output. The results of
    finished gates disappear at the end unless ``keeps_gates`` is set or an exception ends the block.
    """

    def __init__(self, console: Console, terminal: Terminal, *, keeps_gates: bool = True) -> None:
        self._events: deque[tuple[float, Event]] = deque()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        # Only the thread uses the attributes below.
        self._console = console
        self._keeps_gates = keeps_gates
        self._is_unicode = terminal.is_unicode
        # One cell fewer than the terminal has: some terminals start another line after a full one.
        self._width = (terminal.width or console.width) - 1
        self._now = time.monotonic()
        self._answers: dict[str | None, tuple[float, HealthAnswered]] = {}
        self._samples: deque[SampleTaken] = deque(maxlen=10)
        self._total = 0
        self._lines: list[Text] = []
        self._finished_gates: list[Text] = []
        spinner = SpinnerColumn("dots" if terminal.is_unicode else "line", style="")
        duration = _Column(lambda task: self._cut(f" {task.elapsed:.0f} s"), shrinks=False)
        step = _Column(lambda task: self._cut(task.description))
        self._step = Progress(spinner, step, duration, auto_refresh=False, get_time=lambda: self._now)
        gate = _Column(lambda task: self._cut(f"gate {task.description}"))
        health = _Column(lambda task: self._health(task.description, " "))
        self._gates = Progress(spinner, gate, duration, health, auto_refresh=False, get_time=lambda: self._now)
        self._bytes = self._new_transfers()

    def __enter__(self) -> LiveDisplay:
        start_if_possible(self._thread)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # no answer follows
            self._keeps_gates = True
        with uninterrupted():  # the cursor must be restored
            self._is_done.set()
            if self._thread.is_alive():
                self._thread.join(_GRACE)

    def __call__(self, event: Event) -> None:
        """Show one event at the next frame."""
        self._events.append((time.monotonic(), event))  # atomic, as popleft is

    def _new_transfers(self) -> Transfers:
        keys = _Column(lambda task: self._cut(f"  {task.description} {self._shortened(', '.join(keys_of(task)), 20)}"))
        numbers = _Column(lambda task: self._cut(f" {numbers_of(task)}"), shrinks=False)
        return Transfers(keys, _Column(self._bar), numbers, get_time=lambda: self._now)

    def _run(self) -> None:
        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        is_done = False
        try:
            while not is_done:
                # Not at each event: a wake-up for every file of a folder takes longer than its capture.
                is_done = self._is_done.wait(_TICK)
                while self._events:
                    self._now, event = self._events.popleft()
                    self._take(event)
                self._now = time.monotonic()
                drawn = [] if is_done else self._drawn()
                if drawn and not live.is_started:
                    live.start()
                live.update(Constrain(Group(*drawn), self._width))
                self._write_lines()
                if live.is_started:
                    live.refresh()
        finally:
            live.stop()
        if self._keeps_gates:
            self._lines += self._finished_gates
        self._finish_step()
        self._write_lines()

    def _write_lines(self) -> None:
        for line in self._lines:
            self._console.print(line, soft_wrap=True)
        self._lines.clear()

    def _take(self, event: Event) -> None:
        match event:
            case StepBegan():
                self._finish_step()
                self._step.add_task(str(event), total=None)
            case Noted(message):
                self._finish_samples()
                self._add_message(message)
            case GateBegan(gate):
                self._gates.add_task(gate, total=None)
            case GateEnded(check):
                self._finish_gate(check)
            case BytesMoved():
                self._bytes.take(event)
            case HealthAnswered():
                self._answers[event.gate] = self._now, event
            case SampleTaken():
                self._samples.append(event)
                self._total += 1

    def _finish_step(self) -> None:
        """Write the lines of finished samples and steps, which are not redrawn any more."""
        self._finish_samples()
        for task in self._step.tasks:
            moved = self._bytes.moved()
            size = f"{show_counter(moved)}, " if moved else ""
            self._add_message(f"{task.description}  {size}{show_seconds(task.elapsed or 0)}", "dim")
            self._step.remove_task(task.id)
        self._bytes = self._new_transfers()
        self._answers.pop(None, None)

    def _finish_gate(self, check: Check) -> None:
        self._answers.pop(check.id, None)
        duration = ""
        for task in self._gates.tasks:
            if task.description == check.id:
                duration = f"  {show_seconds(task.elapsed or 0)}"
                self._gates.remove_task(task.id)
        result = f"gate {check.id}: {check.status}{duration}"
        if check.status != "passed":
            result += f"  {' '.join(check.detail.split())}"
        sign = SIGNS[meaning_of(check.status)][0 if self._is_unicode else 1]
        line = self._shortened(f"{sign} {result}", self._width)
        lines = self._lines if self._keeps_gates else self._finished_gates
        lines.append(Text.assemble((sign, style_of(check.status)), line.removeprefix(sign)))

    def _add_message(self, text: str, style: str = "") -> None:
        lines = wrapped(one_line(f"> {text}"), self._width + 1, "  ")
        self._lines += [Text(quoted_if_like_verdict(line), style=style) for line in lines]

    def _finish_samples(self) -> None:
        self._lines += self._sample_lines()
        self._samples.clear()
        self._total = 0

    def _drawn(self) -> list[RenderableType]:
        drawn: list[RenderableType] = [*self._sample_lines(), *self._finished_gates[-_MOST_GATES:]]
        if self._step.tasks:
            drawn.append(self._step.get_renderable())
        if self._gates.tasks:
            drawn.append(self._gates.make_tasks_table(self._gates.tasks[:_MOST_GATES]))
        if len(self._gates.tasks) > _MOST_GATES:
            drawn.append(Text(f"  and {len(self._gates.tasks) - _MOST_GATES} more"))
        if None in self._answers:
            drawn.append(self._health(None, "  "))
        if moving := [task for task in self._bytes.tasks if keys_of(task)]:
            for task in moving:
                self._bytes.sample(task)
            drawn.append(self._bytes.make_tasks_table(moving))
        return drawn

    def _cut(self, text: str) -> _Cell:
        text = one_line(text)
        return _Cell(lambda width: self._shortened(text, width), cell_len(text))

    def _shortened(self, text: str, width: int) -> str:
        return shortened(one_line(text), width, "\u2026" if self._is_unicode else "...")

    def _health(self, gate: str | None, indent: str) -> _Cell:
        if gate not in self._answers:
            return self._cut("")
        at, event = self._answers[gate]
        return self._cut(indent + health_line(event, self._now - at))

    def _bar(self, task: Task) -> _Cell:
        # Not a BarColumn: its two parts are the same character in different colours, and it draws non-ASCII
        # characters wherever the encoding is UTF-8, even in the C locale.
        full, empty = ("\u2501", "\u2500") if self._is_unicode else ("#", ".")

        def drawn(width: int) -> str:
            done = width * done_of(task) // int(task.total or 1)
            return "" if width < _LEAST_BAR else full * done + empty * (width - done)

        return _Cell(drawn, _MOST_BAR)

    def _sample_lines(self) -> list[Text]:
        if not self._samples:
            return []
        rows = [(one_line(sample.time[11:19]), *sample_cells(sample)) for sample in self._samples]
        # One line for each sample: its reason is cut to the width that the other columns leave.
        others = sum(max(map(len, column)) + 2 for column in list(zip(_COLUMNS, *rows, strict=True))[:-1])
        left = max(self._width - others, 8)
        shown = [[*cells, self._shortened(reason, left)] for *cells, reason in rows]
        lines = fitting_lines(_COLUMNS, shown, max(self._width, others + left))
        hidden = self._total - len(rows)
        title = [Text(f"the last {len(rows)} of {self._total} samples")] if hidden else []
        return [*title, *(Text.assemble(*parts) for parts in lines)]
