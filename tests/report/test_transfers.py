"""Bytes, rates and the time that is left."""

from __future__ import annotations

import pytest

from release_tasks.core.events import BytesMoved
from release_tasks.report.transfers import Transfers, shown_size

MIB = 1 << 20


def moved(done: int, total: int = 100 * MIB, key: str = "database") -> BytesMoved:
    """An event of a capture."""
    return BytesMoved("capture", key, done, total)


def test_rate_and_time_left_are_over_all_assets() -> None:
    """Ten MiB a second of one asset, while another one of the same size waits."""
    transfers = Transfers()
    transfers.take(moved(0, key="identity"), 0.0)
    for second in range(6):
        transfers.take(moved(second * 10 * MIB), float(second))
    (standing,) = transfers.standings(5.0)
    assert (standing.done, standing.total, standing.keys) == (50 * MIB, 200 * MIB, ["identity", "database"])
    assert standing.rate == pytest.approx(10 * MIB)
    assert standing.numbers() == "50.0 of 200.0 MiB, 10.0 MiB/s, 15 s left"


def test_a_stall_is_seen_within_seconds() -> None:
    """The rate is that of the last seconds, not of the whole transfer."""
    transfers = Transfers()
    for second in range(10):
        transfers.take(moved(second * 10 * MIB), float(second))
    (before,) = transfers.standings(9.0)
    (after,) = transfers.standings(19.0)
    assert before.rate is not None and after.rate is not None
    assert after.rate < before.rate / 2


def test_nothing_is_claimed_before_anything_is_known() -> None:
    """At the first moment there is neither a rate nor a time left; a total of 0 bytes harms nobody."""
    transfers = Transfers()
    transfers.take(moved(0, 0), 1.0)
    (standing,) = transfers.standings(1.0)
    assert (standing.rate, standing.left, standing.is_over) == (None, None, True)
    assert standing.numbers() == "0 of 0 B"


def test_what_is_read_again_makes_no_rate_below_zero() -> None:
    """A file that changed meanwhile begins anew."""
    transfers = Transfers()
    transfers.take(moved(50 * MIB), 0.0)
    transfers.take(moved(0), 1.0)
    (standing,) = transfers.standings(1.0)
    assert (standing.rate, standing.left) == (0.0, None)


def test_what_was_moved_is_counted_once() -> None:
    """Captured and then checked: the bytes of the state, not twice as many."""
    transfers = Transfers()
    transfers.take(moved(100), 0.0)
    transfers.take(BytesMoved("check", "database", 90, 100), 0.0)
    assert transfers.moved() == 100
    assert [standing.action for standing in transfers.standings(0.0)] == ["capture", "check"]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * MIB, "5.0 MiB"),
        (3 << 40, "3.0 TiB"),
        (9 << 50, "9216.0 TiB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    """In the largest unit of which there is one."""
    assert shown_size(size) == shown
