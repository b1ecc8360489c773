"""Stage 3: the state comes back whole, verified, or not at all."""

from __future__ import annotations

__all__: list[str] = []
