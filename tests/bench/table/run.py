"""Measure every row, ours and the peers' in turn, and write the section of the page. ``inv dev.bench`` calls it."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from tests.bench.table.cost import against_share, against_size
from tests.bench.table.page import machine, main_table, plain_table, with_section
from tests.bench.table.rows import ONCE, ROUND, Round, Sheet, on_xfs
from tests.bench.table.state import State

__all__ = ["bench"]

FILES = 2000
SHARES = (0, 0.1, 1, 10, 100)
NOTES = """\
Each row has the median (range) of its runs; the programs take turns within a run. All files are in the page cache.
Times are of whole commands, start and flush to disk included. release-tasks includes the gate `true`, all digests and
the check of the database. A rollback saves the live state and restores the saved one: release-tasks restores into the
live database, while a process commits 100 times a second; the peers restore into another folder, which is not atomic,
and while no process writes, because `.backup` starts again after each commit of another process. `longest commit` is
of that process, without a flush of its own.
"""


def bench(page: Path, folder: Path, *, size: int, runs: int, quick: bool) -> None:
    """Measure in ``folder`` (removed before and after) with a database of ``size`` bytes, and write ``page``.

    Raises ValueError when the page has no markers, before anything is measured.
    """
    with_section(page.read_text(), "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    try:
        section = _rows(folder, size=size, runs=runs, quick=quick)
        page.write_text(with_section(page.read_text(), section))  # the costs of 4 GiB may end for want of space
        section += _costs(folder, size=size, quick=quick)
        section += f"\nThe whole run took {(time.monotonic() - started) / 60:.0f} minutes.\n"
        page.write_text(with_section(page.read_text(), section))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rows(folder: Path, *, size: int, runs: int, quick: bool) -> str:
    files = _files(quick)
    sheet = Sheet()
    turn = Round(State(folder / "state", size, files), sheet)
    for number in range(runs):
        print(f"run {number + 1} of {runs}", file=sys.stderr)
        for row in ROUND:
            if number == 0 or row not in ONCE:
                row(turn)
    shutil.rmtree(turn.state.folder)
    on_xfs(folder, size, files, runs, sheet)
    database = f"a database of {size >> 20:,} MiB in WAL mode (rows of 900 random bytes)"
    work = f"Work: {database}, {files:,} files, 6 configs; {runs} run{'s' * (runs > 1)}."
    return f"{machine(folder)}{work}\n\n{NOTES}\n{main_table(sheet)}"


def _costs(folder: Path, *, size: int, quick: bool) -> str:
    sizes = [size // 4, size] if quick else [size // 16, size // 4, size, size * 4]
    by_size = against_size(folder, sizes, _files(quick))
    by_share = against_share(folder, size // 4, (1, 100) if quick else SHARES, _files(quick))
    return (
        "\nCost of release-tasks against the size of the database, 1 % of rows changed at random, one run:\n\n"
        f"{plain_table(by_size)}"
        f"\nCost against the share of rows changed at random, {size >> 22:,} MiB, one run:\n\n{plain_table(by_share)}"
    )


def _files(quick: bool) -> int:
    return 100 if quick else FILES
