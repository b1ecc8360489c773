"""Bytes, rates and remaining time."""

from __future__ import annotations

import pytest

from release_tasks.core.events import BytesMoved
from release_tasks.core.units import show_counter
from release_tasks.report.progress import Transfers, done_of, keys_of, numbers_of

MIB = 1 << 20


def moved(done: int, total: int = 100 * MIB, key: str = "database") -> BytesMoved:
    """Return an event of a capture."""
    return BytesMoved("capture", key, done, total)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rate_and_remaining_time_cover_all_assets(clock: Clock) -> None:
    """One asset advances at ten MiB a second while another one of the same size waits."""
    transfers = Transfers(get_time=clock)
    transfers.take(moved(0, key="identity"))
    for second in range(6):
        clock.now = float(second)
        transfers.take(moved(second * 10 * MIB))
    (task,) = transfers.tasks
    assert (done_of(task), task.total, keys_of(task)) == (50 * MIB, 200 * MIB, ["identity", "database"])
    assert task.speed == pytest.approx(10 * MIB)
    assert numbers_of(task) == "50.0 of 200.0 MiB, 10.0 MiB/s, 15 s left"


def test_a_rate_survives_a_finished_asset_and_a_growing_total(clock: Clock) -> None:
    """A live database grows during its capture, and the next asset starts: both have a rate."""
    transfers = Transfers(get_time=clock)
    for second in range(4):
        clock.now = float(second)
        transfers.take(moved(second * 10 * MIB, (30 if second == 3 else 100 + second) * MIB))
    transfers.take(moved(0, 70 * MIB, key="identity"))
    (task,) = transfers.tasks
    assert numbers_of(task) == "30.0 of 100.0 MiB, 10.0 MiB/s, 7 s left"


def test_a_stall_shows_within_seconds(clock: Clock) -> None:
    """The rate covers the last seconds, not the whole transfer: it is zero when nothing moves."""
    transfers = Transfers(get_time=clock)
    for second in range(10):
        clock.now = float(second)
        transfers.take(moved(second * 10 * MIB))
    (task,) = transfers.tasks
    assert numbers_of(task).endswith("s left")
    clock.now = 15.0
    transfers.sample(task)
    assert numbers_of(task) == "90.0 of 100.0 MiB"


def test_there_is_no_estimate_without_data(clock: Clock) -> None:
    """The first event has neither a rate nor a remaining time; a total of 0 bytes is accepted."""
    transfers = Transfers(get_time=clock)
    task = transfers.take(moved(0, 0))
    assert (task.speed, keys_of(task)) == (None, [])
    assert numbers_of(task) == "0 of 0 B"


def test_a_restarted_copy_has_no_negative_rate(clock: Clock) -> None:
    """A file that changed meanwhile is copied again."""
    transfers = Transfers(get_time=clock)
    transfers.take(moved(50 * MIB))
    clock.now = 1.0
    task = transfers.take(moved(0))
    assert task.speed is None
    assert numbers_of(task) == "0.0 of 100.0 MiB"


def test_many_small_files_do_not_shorten_the_window(clock: Clock) -> None:
    """The rate covers seconds, not the last thousand files."""
    transfers = Transfers(get_time=clock)
    for number in range(6001):
        clock.now = number / 1000
        done = min(number, 5000) * 1024
        task = transfers.take(moved(done))
    assert task.speed == pytest.approx(1000 * 1024, rel=0.1)


def test_bytes_are_counted_once(clock: Clock) -> None:
    """Captured and then checked: the bytes of the state, not twice as many."""
    transfers = Transfers(get_time=clock)
    transfers.take(moved(100))
    transfers.take(BytesMoved("check", "database", 90, 100))
    assert transfers.moved() == 100
    assert [task.description for task in transfers.tasks] == ["capture", "check"]


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
    """The unit is the largest one that fits."""
    assert show_counter(size) == shown
