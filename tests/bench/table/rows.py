"""The rows of the table. A row is one small function that measures every program once and notes what it found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.table.programs import PLAIN, Ours, Program, disk_use, installed
from tests.bench.table.sampling import peak_memory, seconds, writer
from tests.bench.table.state import State

__all__ = ["ONCE", "OURS", "ROUND", "SHA256SUM", "Round", "Sheet", "on_xfs"]

OURS = Ours.name
SHA256SUM = "`sha256sum`"


@dataclass
class Sheet:
    """What was measured: for each row its unit, and for each program the values of all runs."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, row: str, program: str, value: float, unit: str = "s") -> None:
        """Add a value; the unit of seconds is ``s``, of bytes ``B``."""
        self.units[row] = unit
        self.values.setdefault(row, {}).setdefault(program, []).append(value)
        print(f"  {row}, {program}: {value:.4g} {unit}", file=sys.stderr, flush=True)


class Round:
    """One run over a state: the programs in turn, and the sheet."""

    def __init__(self, state: State, sheet: Sheet) -> None:
        self.state = state
        self.sheet = sheet
        self.programs = installed(state)
        self.ours = next(program for program in self.programs if isinstance(program, Ours))

    def timed(self, row: str, program: Program, action: Callable[[], object]) -> None:
        """Note the seconds of an action that begins with nothing left to write on the filesystem."""
        subprocess.run(["sync", "-f", self.state.folder], check=True)
        self.sheet.note(row, program.name, seconds(action))


def first_capture(turn: Round) -> None:
    """Save the state into empty repositories."""
    turn.state.reset()
    for program in turn.programs:
        program.clear()
        turn.timed("first capture", program, program.save)


def capture_again(turn: Round) -> None:
    """Save the state after 1 % of its rows changed at random: the time, and what the repository grew by."""
    turn.state.change_random(1)
    for program in turn.programs:
        before = disk_use(program.repository)
        turn.timed("capture again, 1 % of rows changed at random", program, program.save)
        turn.sheet.note("the same: added on disk", program.name, disk_use(program.repository) - before, "B")


def rollback_random(turn: Round) -> None:
    """Roll back 1 % of rows at random; release-tasks under a writer."""
    _rollback(turn, "rollback, 1 % drift at random", turn.programs, lambda: turn.state.change_random(1))


def rollback_clustered(turn: Round) -> None:
    """Roll back 1 % of rows, one after the other; release-tasks under a writer."""
    _rollback(turn, "rollback, 1 % drift clustered", _plain_and_ours(turn), lambda: turn.state.change_clustered(1))


def rollback_everything(turn: Round) -> None:
    """Roll back a database in which every row differs; release-tasks under a writer."""
    _rollback(turn, "rollback, everything different", _plain_and_ours(turn), turn.state.change_all)


def verify(turn: Round) -> None:
    """Verify the newest snapshot, and read the same bytes with sha256sum."""
    row = "verify the newest snapshot"
    files = [turn.state.database, *(turn.state.live / "identity").rglob("*.json"), *turn.state.live.glob("*.json")]
    turn.sheet.note(row, SHA256SUM, seconds(lambda: _sha256sum(files)))
    turn.sheet.note(row, OURS, seconds(turn.ours.verify))


def start(turn: Round) -> None:
    """Start the command and let it read the pipeline: the part of each time that does not depend on the state."""
    status = turn.ours.command_line("release.status")
    turn.sheet.note("start of the command (`release.status`)", OURS, seconds(lambda: turn.ours.run(*status)))


def five_releases(turn: Round) -> None:
    """Save three more releases, 1 % of rows changed at random before each: five are kept then."""
    for _ in range(3):
        turn.state.change_random(1)
        for program in turn.programs:
            program.save()
    for program in turn.programs:
        turn.sheet.note("5 releases kept, 1 % at random between", program.name, disk_use(program.repository), "B")


def memory(turn: Round) -> None:
    """Sample the anonymous memory of a capture and of a rollback with all their processes."""
    ours, state = turn.ours, turn.state
    state.change_random(1)
    command = ours.command_line("release.prepare", "--release-id", "sampled")
    turn.sheet.note("peak anonymous memory, capture", OURS, peak_memory(command, state.folder), "B")
    state.change_random(1)
    command = ours.command_line(*ours.rollback())
    turn.sheet.note("peak anonymous memory, rollback", OURS, peak_memory(command, state.folder), "B")


ROUND = (
    first_capture,
    capture_again,
    five_releases,
    rollback_random,
    rollback_clustered,
    rollback_everything,
    verify,
    start,
    memory,
)
ONCE = (five_releases, memory)  # their values hardly vary: only the first run has them


def _plain_and_ours(turn: Round) -> list[Program]:
    return [program for program in turn.programs if program.name in (PLAIN, OURS)]


def _sha256sum(files: list[Path]) -> None:
    subprocess.run(["sha256sum", "--", *files], check=True, stdout=subprocess.DEVNULL)


def _rollback(turn: Round, row: str, programs: list[Program], drift: Callable[[], None]) -> None:
    drift()
    for program in programs:
        if program is not turn.ours:
            turn.timed(row, program, program.return_to_saved)
    with writer(turn.state.database) as service:
        turn.timed(row, turn.ours, turn.ours.return_to_saved)
    turn.sheet.note(f"{row}: longest commit", OURS, service.longest)
    locked = list(_named(turn.ours.outcome, "lockMs"))
    if locked:
        turn.sheet.note(f"{row}: `lockMs`", OURS, max(locked) / 1000)


def _named(document: Any, key: str) -> Iterator[float]:
    """Yield the numbers that have this key anywhere in a JSON document."""
    if isinstance(document, dict):
        if isinstance(document.get(key), int | float):
            yield document[key]
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            yield from _named(part, key)


@contextmanager
def xfs(folder: Path, size: int) -> Iterator[Path | None]:
    """Give a folder on an XFS that shares blocks, in a file of ``size`` bytes; None where that is impossible."""
    image, mounted = folder / "xfs.img", folder / "xfs"
    if os.geteuid() != 0 or not shutil.which("mkfs.xfs"):
        yield None
        return
    with image.open("wb") as file:
        file.truncate(max(size, 512 << 20))
    mounted.mkdir()
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, capture_output=True)
        done = subprocess.run(["mount", "-o", "loop", image, mounted], check=False, capture_output=True)
        if done.returncode:
            yield None
            return
        try:
            yield mounted
        finally:
            subprocess.run(["umount", mounted], check=True)
    finally:
        image.unlink()
        mounted.rmdir()


def on_xfs(folder: Path, size: int, files: int, runs: int, sheet: Sheet) -> None:
    """Save again, after 1 % of rows changed at random, where files share blocks; added is what the filesystem lost."""
    with xfs(folder, 8 * size) as mounted:
        if mounted is None:
            return
        turn = Round(State(mounted / "state", size, files), sheet)
        for _ in range(runs):
            turn.state.reset()
            for program in _plain_and_ours(turn):
                program.clear()
                program.save()
            turn.state.change_random(1)
            for program in _plain_and_ours(turn):
                before = _free(mounted)
                turn.timed("capture again, on XFS with reflink", program, program.save)
                turn.sheet.note("the same on XFS: added on disk", program.name, before - _free(mounted), "B")


def _free(mounted: Path) -> int:
    subprocess.run(["sync", "-f", mounted], check=True)
    found = os.statvfs(mounted)
    return found.f_bfree * found.f_frsize
