"""Snapshots: capture, the catalogue that finds and keeps them, and their verification."""

from __future__ import annotations

__all__: list[str] = []
