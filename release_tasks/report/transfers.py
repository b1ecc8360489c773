"""How far the bytes of a step are, how fast they move and how long the rest takes."""

from __future__ import annotations

import math
from collections import deque

from attrs import define, field, frozen

from release_tasks.core.clock import rough_span
from release_tasks.core.events import BytesMoved

__all__ = ["Standing", "Transfers", "shown_size"]

_WINDOW = 5.0  # seconds that a rate is taken over: calm enough to be read, and quick to notice a stall
_GRAIN = 0.2  # seconds between the moments that are remembered
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@frozen(kw_only=True)
class Standing:
    """One action at one moment: bytes, bytes a second, the seconds that are left, and the assets that are not done.

    ``rate`` and ``left`` are None while nothing can be said of them.
    """

    action: str
    keys: list[str]
    done: int
    total: int
    rate: float | None
    left: float | None

    @property
    def is_over(self) -> bool:
        """Whether the last byte of every asset that was told of has moved."""
        return not self.keys

    def numbers(self) -> str:
        """Return bytes, rate and time left, for people."""
        told = f"{shown_size(self.done, self.total)} of {shown_size(self.total)}"
        if self.rate:
            told += f", {shown_size(int(self.rate))}/s"
        if self.left is not None and self.keys:
            told += f", {rough_span(math.ceil(self.left))} left"
        return told


@define
class _Action:
    assets: dict[str, tuple[int, int]] = field(factory=dict)
    moments: deque[tuple[float, int]] = field(factory=deque)

    def done(self) -> int:
        return sum(done for done, _ in self.assets.values())


class Transfers:
    """The bytes of one step, told by events; ``now`` is in seconds since some fixed moment."""

    def __init__(self) -> None:
        self._actions: dict[str, _Action] = {}

    def take(self, event: BytesMoved, now: float) -> None:
        """Take one event in."""
        action = self._actions.setdefault(event.action, _Action())
        action.assets[event.key] = (event.done, event.total)
        moments = action.moments
        if not moments or now - moments[-1][0] >= _GRAIN:
            moments.append((now, action.done()))
            while now - moments[0][0] > _WINDOW:
                moments.popleft()

    def standings(self, now: float) -> list[Standing]:
        """Return where each action stands, in the order in which they began."""
        return [self._standing(name, action, now) for name, action in self._actions.items()]

    def moved(self) -> int:
        """Return the bytes of the action that moved most: what was read once, however often it was checked."""
        return max((action.done() for action in self._actions.values()), default=0)

    def _standing(self, name: str, action: _Action, now: float) -> Standing:
        done, total = action.done(), sum(total for _, total in action.assets.values())
        since, before = action.moments[0]
        rate = (done - before) / (now - since) if now - since >= 2 * _GRAIN else None
        return Standing(
            action=name,
            keys=[key for key, (asset_done, asset_total) in action.assets.items() if asset_done < asset_total],
            done=done,
            total=total,
            rate=max(rate, 0.0) if rate is not None else None,
            left=(total - done) / rate if rate is not None and rate > 0 else None,
        )


def shown_size(size: int, like: int | None = None) -> str:
    """Return a number of bytes in the unit that suits it; without its unit when it stands before ``like``."""
    power = 0
    while power < len(_UNITS) - 1 and (size if like is None else like) >= 1024 ** (power + 1):
        power += 1
    number = str(size) if power == 0 else f"{size / 1024**power:.1f}"
    return number if like is not None else f"{number} {_UNITS[power]}"
