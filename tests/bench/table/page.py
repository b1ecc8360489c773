"""The measured section of tests/bench/README.md: what was measured, on what, and when."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

import apsw

from release_tasks.core.version import __version__
from tests.bench.table.programs import PLAIN, Ours
from tests.bench.table.rows import SHA256SUM, Sheet

__all__ = ["BEGINS", "ENDS", "machine", "main_table", "plain_table", "with_section"]

BEGINS = "<!-- measured, by: inv dev.bench -->\n"
ENDS = "<!-- end of what was measured -->\n"
PROGRAMS = (Ours.name, PLAIN, "restic", "borg")
NOTHING = "-"


def with_section(page: str, section: str) -> str:
    """Return a page with this text between its markers; raises ValueError when a marker is missing."""
    before, begins, rest = page.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not begins or not ends:
        raise ValueError(f"the page has no lines {BEGINS.strip()} and {ENDS.strip()}")
    return before + BEGINS + section + ENDS + after


def main_table(sheet: Sheet) -> str:
    """Return the rows of a sheet as Markdown: medians with ranges, and our median over the one of the reference."""
    rows = [["work", *PROGRAMS, "release-tasks takes"]]
    for row, values in sheet.values.items():
        unit = sheet.units[row]
        cells = [_cell(values.get(program, []), unit) for program in PROGRAMS]
        reference = PLAIN if PLAIN in values else SHA256SUM
        ratio = NOTHING
        if values.get(reference) and (base := statistics.median(values[reference])) > 0:
            shown = "" if reference == PLAIN else f" {reference}, {_cell(values[reference], unit)}"
            ratio = f"{statistics.median(values[Ours.name]) / base:.2f} x{shown}"
        rows.append([row, *cells, ratio])
    return plain_table(rows)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table; the first row has the names."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine(folder: Path) -> str:
    """Return two lines: the machine with its filesystem at ``folder``, and all versions with the time in UTC."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = _first_line("stat", "-f", "-c", "%T", str(folder))
    kind = {"ext2/ext3": "ext4 (or ext2, ext3)"}.get(kind, kind)
    if found := _first_line("findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)):
        kind = found
    load = os.getloadavg()[0]
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    peers = [_first_line("restic", "version").partition(" compiled")[0], _first_line("borg", "--version")]
    shell = _first_line("sqlite3", "--version").partition(" ")[0]
    versions = [
        f"release-tasks {__version__}",
        f"Python {platform.python_version()}",
        f"SQLite {apsw.sqlite_lib_version()} (captures), {_page_engine()}, {shell or NOTHING} (`sqlite3`)",
        *(peer or "a peer is not installed" for peer in peers),
    ]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"Machine: {os.cpu_count()} cores, {memory:.0f} GiB, {kind}, {kernel}; load average at the end {load:.1f}.\n"
        f"Versions: {', '.join(versions)}. Measured {now}.\n"
    )


def _page_engine() -> str:
    try:
        library = import_module("sqlean")  # it has no types
    except ImportError:
        return f"{sqlite3.sqlite_version} (Python; no engine for pages is installed)"
    return f"{library.sqlite_version} (pages)"


def _first_line(*command: str) -> str:
    """Return the first line that a command prints, or an empty text when it is not installed or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.partition("\n")[0].strip()


def _cell(values: Sequence[float], unit: str) -> str:
    if not values:
        return NOTHING
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{_number(middle, unit)}"
    return f"{_number(middle, unit)} ({_number(min(values), unit)} to {_number(max(values), unit)})"


def _number(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.1f} ms"
