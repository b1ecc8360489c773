"""Stage 4: decide what a service needs from its health, reliability, releases and audit log."""

from __future__ import annotations

__all__: list[str] = []
