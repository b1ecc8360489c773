"""The line coverage of a test run, one line for each package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import coverage

__all__ = ["coverage_table"]


def coverage_table(root: Path) -> str:
    """Return the table for the last run of pytest with ``--cov=release_tasks`` in this checkout.

    Raises coverage.CoverageException when there was no such run.
    """
    measured = coverage.Coverage(data_file=str(root / ".coverage"))
    measured.load()
    lines: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for file in measured.get_data().measured_files():
        if not file.endswith(".py"):  # Jinja runs its templates as Python code
            continue
        _, statements, _, missing, _ = measured.analysis2(file)
        path = Path(file).relative_to(root)
        package = "/".join(path.parts[:2]) if len(path.parts) > 2 else path.parts[0]
        lines[package] += len(statements)
        missed[package] += len(missing)
    rows = [_row(name, lines[name], missed[name]) for name in sorted(lines)]
    total = _row("total", lines.total(), missed.total())
    return "\n".join([f"{'PACKAGE':<26}{'LINES':>7}{'MISSED':>8}{'COVERED':>9}", *rows, total])


def _row(name: str, lines: int, missed: int) -> str:
    share = (lines - missed) / lines if lines else 1.0
    return f"{name:<26}{lines:>7}{missed:>8}{share:>9.1%}"
