"""One attempt to hand a notice over, and what became of all of them."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ["Attempt", "Delivery"]


@frozen(kw_only=True)
class Attempt:
    """How one attempt ended. ``is_final`` says that another one would end the same way."""

    is_delivered: bool
    detail: str
    is_final: bool = False


@frozen(kw_only=True)
class Delivery:
    """What became of a notice for one of its receivers, as ``release.notices`` calls it."""

    name: str
    status: Literal["sent", "failed"]
    attempts: int
    detail: str
