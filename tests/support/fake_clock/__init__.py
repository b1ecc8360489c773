"""A wall clock that a test sets for another process, through libfaketime; file times stay those of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["WHY_NOT", "fake_clock_environment", "set_clock"]

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
WHY_NOT = None if _LIBRARIES else "libfaketime is missing (Debian: apt-get install faketime)"
_FOLDER = Path(__file__).parent


def fake_clock_environment(clock: Path) -> dict[str, str]:
    """Return the environment of a process whose wall clock is set by ``set_clock(clock, ...)``."""
    return {
        **os.environ,
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": os.pathsep.join([str(_FOLDER / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def set_clock(clock: Path, seconds: float) -> None:
    """Set the wall clock ahead of the right time by ``seconds``, or back when they are negative."""
    written = clock.with_name(f"{clock.name}.new")
    written.write_text(f"{seconds:+.0f}\n")
    written.replace(clock)  # libfaketime may read at any moment
