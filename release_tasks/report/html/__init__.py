"""A release as one page: what is told (``page``), where it comes from (``gather``), how it looks (``render``)."""

from __future__ import annotations

__all__: list[str] = []
