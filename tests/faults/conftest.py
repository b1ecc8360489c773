"""Fixtures of the fault tests: mounts, folders in memory, the process that runs stages, a service, a point counter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.reader import ContentReader
from tests.support.faults.damage import DamagedProject, scratch_folder
from tests.support.faults.mounts import Mounts, mounted
from tests.support.faults.scenario import MakeScenarioProject
from tests.support.faults.service import Service
from tests.support.faults.stages import answer_here
from tests.support.faults.tracing import Driver
from tests.support.project import Project


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A scratch folder, in memory where possible: a kill does not depend on the disk, and memory is faster."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="release-tasks-", dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_scenario_project(memory: Path) -> MakeScenarioProject:
    """Return the function that makes the project of a test in memory; its configuration is read once."""

    def make(journal_mode: str) -> Project:
        folder = memory / "project"
        folder.mkdir()
        return Project(folder, journal_mode, cache_settings=True)

    return make


@pytest.fixture
def driver(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The process that runs stages, each in a child of its own.

    The checks after each point read databases in the process of the test: thousands of processes would take minutes.
    """
    monkeypatch.setattr(ContentReader, "_answer", answer_here)
    started = Driver(memory)
    yield started
    started.close()


@pytest.fixture
def service() -> Iterator[Service]:
    """A service in a process of its own that can hold a database open and write to it."""
    started = Service()
    yield started
    started.end()


@pytest.fixture
def report_points(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Record the number of points that a test has tried; the summary of the run lists it."""
    return lambda count: record_property("points tried", count)


@pytest.fixture(scope="module")
def damaged_template() -> Iterator[DamagedProject]:
    """The project of ``damaged``, made once for all tests of a module."""
    with scratch_folder() as folder:
        (folder / "project").mkdir()
        yield DamagedProject(Project(folder / "project"))


@pytest.fixture
def damaged(damaged_template: DamagedProject) -> DamagedProject:
    """A project with the snapshots v0 and v1, of which the test damages v1."""
    damaged_template.reset()
    return damaged_template


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """A maker of mounts that unmounts all of them at the end of the test."""
    made = Mounts(tmp_path)
    yield made
    made.clear()
    assert [path for path in mounted() if path.is_relative_to(tmp_path)] == []
