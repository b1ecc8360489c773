"""Durable writes, the lock, digests, canonical JSON and redaction: the ground every stage stands on."""

from __future__ import annotations

__all__: list[str] = []
