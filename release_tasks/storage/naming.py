"""Errors that say which file they happened to, also where the call was about a descriptor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["naming"]


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the block name ``path``, where it would name a descriptor, a bare name or nothing at all."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # our own, a sentence that names it already
            raise
        if not isinstance(error.filename, str) or not os.path.isabs(error.filename):
            error.filename = str(path)
        raise
