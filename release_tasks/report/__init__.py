"""What people and other programs look at: one module per format."""

from __future__ import annotations

__all__: list[str] = []
