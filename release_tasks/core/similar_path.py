"""Find the path that a misspelt path stands for."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path

__all__ = ["is_misspelt", "suggest_path"]

_MOST_NAMES = 10_000
_LIKENESS = 0.6  # "bni" and "bin"; enough for a question
_HIGH_LIKENESS = 0.8  # "strat.sh" and "start.sh"


def suggest_path(path: Path, base: Path) -> str:
    """Return `` (did you mean instance/todo.db?)`` for a path that does not exist, or an empty text."""
    found = _similar_path(path, _LIKENESS)
    if found is None:
        return ""
    return f" (did you mean {found.relative_to(base) if found.is_relative_to(base) else found}?)"


def is_misspelt(path: Path) -> bool:
    """Return whether the missing ``path`` is almost certainly a misspelt one."""
    return _similar_path(path, _HIGH_LIKENESS) is not None


def _similar_path(path: Path, likeness: float) -> Path | None:
    """Return an existing path that differs from the missing ``path`` in the spelling of one name, or None."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return None
    wrong, *below = path.relative_to(folder).parts
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _MOST_NAMES)]
    except OSError:
        return None
    for name in difflib.get_close_matches(wrong, names, cutoff=likeness):
        found = folder.joinpath(name, *below)
        if os.path.lexists(found):
            return found
    return None
