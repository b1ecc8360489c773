"""Plugins, the code of other packages: found by name, and asset kinds run in a process of their own."""

from __future__ import annotations

__all__: list[str] = []
