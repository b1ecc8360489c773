"""The embedded reference gateway: a small, real service for a release to act on."""

from __future__ import annotations

__all__: list[str] = []
