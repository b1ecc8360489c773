"""Who may write to the service by direct message: policy, store, senders."""

from __future__ import annotations

__all__: list[str] = []
