"""The watch after a deploy: looks at the service, a verdict on them, and at most one rollback."""

from __future__ import annotations

__all__: list[str] = []
