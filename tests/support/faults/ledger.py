"""Which state the rows of a database belong to, also while a service writes to them."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.project import BALANCE

__all__ = ["generation"]

_MARKER = (0, 0, 999999)  # the ledger row that Project.damage inserts


def generation(accounts: Iterable[tuple[int, int]], ledger: Iterable[tuple[int, ...]]) -> str:
    """Return ``old`` (damaged) or ``new`` (the snapshot's) when the ledger explains all balances, else the fault.

    ``Project.damage`` adds one to each balance.
    """
    found = dict(accounts)
    entries = [tuple(row[1:]) for row in ledger]
    is_old = _MARKER in entries
    expected = dict.fromkeys(found, BALANCE + is_old)
    for first, second, amount in entries:
        expected[first] -= amount
        expected[second] += amount
    if expected != found:
        return "neither: the ledger does not explain the balances"
    return "old" if is_old else "new"
