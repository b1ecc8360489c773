"""The environment that commands of an operator run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["search_path", "tool_environment"]


def search_path(environment: Mapping[str, str]) -> str:
    """Return PATH with the running Python's folder in front: ``inv`` and its like are there."""
    own = os.path.dirname(sys.executable)
    inherited = environment.get("PATH", os.defpath)
    return f"{own}{os.pathsep}{inherited}" if own else inherited


def tool_environment() -> dict[str, str]:
    """Return this process's environment with the tools of this very installation found first."""
    return {**os.environ, "PATH": search_path(os.environ)}
