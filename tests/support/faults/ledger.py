"""How rows tell which state they belong to, also while a service goes on writing them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["generation"]

_MARKER = (0, 0, 999999)  # the ledger row that Project.damage leaves
_BALANCE = 100  # what every account begins with; Project.damage adds one to each


def generation(accounts: Iterable[tuple[int, int]], ledger: Iterable[tuple[int, ...]]) -> str:
    """Return ``old`` (damaged) or ``new`` (as in the snapshot) when all balances are what the ledger makes of them."""
    found = dict(accounts)
    entries = [tuple(row[1:]) for row in ledger]
    is_old = _MARKER in entries
    expected = dict.fromkeys(found, _BALANCE + is_old)
    for first, second, amount in entries:
        expected[first] -= amount
        expected[second] += amount
    if expected != found:
        return "neither: the balances are not what the ledger says"
    return "old" if is_old else "new"
