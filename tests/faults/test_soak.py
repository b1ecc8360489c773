"""A short soak: releases and rollbacks in a row while a service commits, and nothing drifts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).absolute().parents[1] / "bench" / "bench_soak.py"


@pytest.mark.slow
def test_a_soak_of_some_seconds_violates_nothing(tmp_path: Path) -> None:
    """Invariant, generation, chain, snapshots, leftovers, memory, open files and disk use, after each cycle."""
    flags = ["--minutes", "0.15", "--every", "0.5", "--megabytes", "2", "--folder", str(tmp_path / "soak")]
    done = subprocess.run([sys.executable, str(BENCH), *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| violations | 0 |" in done.stdout
    assert done.stdout.count("all holds") >= 4
    assert not (tmp_path / "soak").exists()
