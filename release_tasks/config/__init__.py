"""What invoke.yaml may say: ``schema`` is the one list of keys, ``load`` reads and checks them."""

from __future__ import annotations

__all__: list[str] = []
