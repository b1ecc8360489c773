"""Shell commands of an operator: watched, timed, logged, and cleaned up with everything they start."""

from __future__ import annotations

__all__: list[str] = []
