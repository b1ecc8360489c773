"""What release-tasks alone costs: against the size of the database, and against the share of rows that changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.table.programs import Ours, disk_use
from tests.bench.table.sampling import seconds
from tests.bench.table.state import State

__all__ = ["against_share", "against_size"]

COLUMNS = ("first capture", "capture again", "added on disk", "rollback")


def against_size(folder: Path, sizes: Sequence[int], files: int) -> list[list[str]]:
    """Return a row of cells for each size, 1 % of rows changed at random; the first row has the names."""
    rows = [["database", *COLUMNS]]
    for size in sizes:
        state = State(folder / "cost", size, files)
        rows.append([f"{size >> 20:,} MiB", *_costs(state, 1)])
        shutil.rmtree(state.folder)
        _report(rows[-1])
    return rows


def against_share(folder: Path, size: int, shares: Sequence[float], files: int) -> list[list[str]]:
    """Return a row of cells for each share of rows in percent, changed at random; the first row has the names."""
    rows = [["rows changed", *COLUMNS]]
    state = State(folder / "cost", size, files)
    for share in shares:
        rows.append([f"{share:g} %", *_costs(state, share)])
        _report(rows[-1])
    shutil.rmtree(state.folder)
    return rows


def _costs(state: State, percent: float) -> list[str]:
    ours = Ours(state)
    ours.clear()
    state.reset()
    first = seconds(ours.save)
    first_snapshot = ours.snapshot
    if percent == 100:
        state.change_all()
    else:
        state.change_random(percent)
    before = disk_use(ours.repository)
    again = seconds(ours.save)
    added = disk_use(ours.repository) - before
    ours.snapshot = first_snapshot
    rollback = seconds(ours.return_to_saved)
    return [f"{first:.2f} s", f"{again:.2f} s", f"{added / 2**20:.1f} MiB", f"{rollback:.2f} s"]


def _report(row: list[str]) -> None:
    print("  " + ", ".join(row), file=sys.stderr, flush=True)
