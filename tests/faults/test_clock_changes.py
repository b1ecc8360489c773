"""The wall clock is set back and ahead at every step of every command, and decides nothing.

Real processes under libfaketime; the times of files come from the kernel, as from a file server with another clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clock_story import OFFSETS
from tests.support.fake_clock import WHY_NOT, fake_clock_environment, set_clock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"NOT TESTED: {WHY_NOT}"),
]

_REPOSITORY = Path(__file__).parents[2]


# Two of the five rotations, which set each step to two offsets. With EVERY_CALL in the environment all are tried.
@pytest.mark.parametrize("number", range(len(OFFSETS)) if "EVERY_CALL" in os.environ else [1, 3])
def test_clock_set_at_every_step_changes_no_outcome(tmp_path: Path, number: int) -> None:
    """An hour and a year, back and ahead: state, order, latest, retention, ids, durations and audit are right."""
    project, clock = tmp_path / "project", tmp_path / "clock"
    project.mkdir()
    set_clock(clock, 0)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.clock_story", str(project), str(clock), str(number)],
        cwd=_REPOSITORY,
        env=fake_clock_environment(clock),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 40  # steps
