"""The short version of ``inv dev.bench`` has every row of the table, each with numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.table.page import BEGINS, ENDS, with_section
from tests.bench.table.programs import PLAIN

REPOSITORY = Path(__file__).absolute().parents[2]
NUMBER = re.compile(r"-?\d[\d,.]* (s|ms|MiB)\b")
RELEASES = "5 releases kept, 1 % at random between"
AGAIN = "capture again, 1 % of rows changed at random"
ALL = ("first capture", AGAIN, "the same: added on disk", RELEASES, "rollback, 1 % drift at random")
WITH_PLAIN = ("rollback, 1 % drift clustered", "rollback, everything different")
OURS = (
    *(f"{row}: longest commit" for row in (ALL[-1], *WITH_PLAIN)),
    "verify the newest snapshot",
    "start of the command (`release.status`)",
    "peak anonymous memory, capture",
    "peak anonymous memory, rollback",
)


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the tables of a page: the first cell of each line, and the others."""
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_text_outside_the_markers_stays() -> None:
    """What was measured replaces only what stands between the markers."""
    page = f"before\n{BEGINS}old\n{ENDS}after\n"
    assert with_section(page, "new\n") == f"before\n{BEGINS}new\n{ENDS}after\n"
    assert BEGINS in (REPOSITORY / "tests" / "bench" / "README.md").read_text()


@pytest.mark.parametrize("page", ["", BEGINS, ENDS, ENDS + BEGINS])
def test_page_without_markers_is_refused(page: str) -> None:
    """A page that would lose its text or its results is not written."""
    with pytest.raises(ValueError, match="the page has no lines"):
        with_section(page, "new\n")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--size", "8MiB"], "--size must be at least 16MiB"),
        (["--size", "big"], "expected a size such as 64MiB"),
        (["--runs", "0"], "--runs at least 1"),
        (["--page", "LICENSE"], "the page has no lines"),
        (["--page", "absent.md"], "absent.md"),
    ],
)
def test_bad_flag_is_a_sentence(tmp_path: Path, flags: list[str], sentence: str) -> None:
    """Nothing is measured, and the page stays as it is."""
    done = run_bench(tmp_path, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the program sqlite3")
@pytest.mark.timeout(600)
def test_quick_run_measures_every_row(tmp_path: Path) -> None:
    """Each row has a number of each program that belongs to it; no time is asserted."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGINS}{ENDS}after\n")
    done = run_bench(tmp_path, "--quick", "--page", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = rows_of(text)
    programs = ["release-tasks", PLAIN, *(name for name in ("restic", "borg") if shutil.which(name))]
    names = rows["work"]
    expected = dict.fromkeys(ALL, programs)
    expected |= dict.fromkeys(WITH_PLAIN, programs[:2]) | dict.fromkeys(OURS, programs[:1])
    if "the same on XFS: added on disk" in rows:
        expected |= {"capture again, on XFS with reflink": programs[:2]}
    for row, columns in expected.items():
        for column in columns:
            assert NUMBER.match(rows[row][names.index(column)]), (row, column, rows[row])
        if len(columns) > 1:
            assert re.fullmatch(r"\d+\.\d\d x", rows[row][-1]), rows[row]
    assert re.match(r"\d+\.\d\d x `sha256sum`, \d", rows["verify the newest snapshot"][-1])
    for row in ("16 MiB", "64 MiB", "1 %", "100 %"):
        assert all(NUMBER.match(cell) for cell in rows[row]), rows[row]
    assert re.search(r"Measured \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert not (tmp_path / "scratch").exists()


def run_bench(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "dev.bench", "--folder", str(folder / "scratch"), *flags]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
