"""Fixtures of the tests next to another user: the street, that user's process, the process that runs stages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults.tracing import Driver
from tests.support.neighbours.neighbour import Neighbour
from tests.support.neighbours.siege import Siege, interrupt_rollback, lose_folder, plant_leftovers
from tests.support.neighbours.street import Street


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A scratch folder that every user can search, in memory where possible."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="release-tasks-", dir=shared if shared.is_dir() else tmp_path))
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def siege(request: pytest.FixtureRequest, ground: Path, report_points: Callable[[int], None]) -> Iterator[Siege]:
    """A street, the process of the other user in it, and the process that runs stages.

    The parameter is the journal mode of the database.
    """
    street = Street(ground / "world", getattr(request, "param", "delete"))
    driver = Driver(ground)
    driver.warm_up(street.rollback_job())
    street.reset()
    neighbour = Neighbour(street.state, street.vault)
    made = Siege(street, driver, neighbour)
    plant_leftovers(street)
    lose_folder(street)
    interrupt_rollback(street, driver)
    yield made
    report_points(made.tries)
    neighbour.close()
    driver.close()
    street.unmount()


@pytest.fixture
def report_points(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Record the number of points that a test has tried; the summary of the run lists it."""
    return lambda count: record_property("points tried", count)
