"""The script in the pipeline folder that turns a delta into a database where this package is not installed."""

from __future__ import annotations

import contextlib
from importlib import resources
from pathlib import Path

from release_tasks.core.durable import write_atomic
from release_tasks.core.regular import read_regular

__all__ = ["READER", "write_reader"]

READER = "read-delta.py"


def write_reader(root: Path) -> None:
    """Write the script into the pipeline folder, unless it is there already. Raises OSError."""
    content = (resources.files("release_tasks.assets.sqlite") / "read_delta.py").read_bytes()
    with contextlib.suppress(OSError):
        if read_regular(root / READER, len(content) + 1) == content:
            return
    write_atomic(root / READER, content)
