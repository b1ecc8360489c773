"""A short soak test: releases and rollbacks one after the other while a service commits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).absolute().parents[2]


@pytest.mark.slow
def test_soak_of_some_seconds_violates_no_promise(tmp_path: Path) -> None:
    """Each cycle checks rows, files, audit chain, snapshots, leftovers, memory, open files and disk use."""
    flags = ["--minutes", "0.15", "--every", "0.5", "--megabytes", "2", "--folder", str(tmp_path / "soak")]
    command = [sys.executable, "-m", "tests.bench.bench_soak", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| violations | 0 |" in done.stdout
    assert done.stdout.count("no problems") >= 4
    assert not (tmp_path / "soak").exists()
