"""Fixtures of the fault tests: mounts, scratch folders in memory, the process that runs stages, a service, a count."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.damage import Watched, scratch_folder
from tests.support.faults.service import Service
from tests.support.faults.tracing import Driver
from tests.support.project import Project


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A scratch folder in memory where there is such a place: a kill cares for no disk, and thousands go faster."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="release-tasks-", dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def driver(memory: Path) -> Iterator[Driver]:
    """The process that runs stages, each in a child of its own."""
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
def tried(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Tell how many points a test has tried; the summary of the run shows it."""
    return lambda count: record_property("points tried", count)


@pytest.fixture
def steady() -> Callable[[Any], Any]:
    """Let a project read its configuration once: a thousand readings would take longer than a thousand rollbacks."""

    def make_steady(project: Project) -> Any:
        varying = project.__class__
        settings = functools.cached_property(lambda self: varying.settings.fget(self))
        project.__class__ = type("SteadyProject", (varying,), {"settings": settings})
        return project

    return make_steady


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, Any]]:
    """What is made once for all tests of a module: a folder, and the projects in it."""
    with scratch_folder() as folder:
        yield {"folder": folder}


@pytest.fixture
def watched(kept: dict[str, Any], project_at: Callable[..., Any]) -> Watched:
    """A damaged project with the snapshots v0 and v1, of which v1 is about to be damaged."""
    if "watched" not in kept:
        folder = kept["folder"] / "project"
        folder.mkdir()
        kept["watched"] = Watched(project_at(folder))
    found: Watched = kept["watched"]
    found.fresh()
    return found


class Mounts:
    """Mounts and immutable files that are all undone at the end, the last one first; nothing is mounted twice."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.undo: list[list[str]] = []

    def run(self, command: list[str], undo: list[str]) -> None:
        """Run a command that ``undo`` takes back; skip the test, loudly, where the system cannot do that."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: {' '.join(command[:3])}: {done.stderr.strip()}")
        self.undo.append(undo)

    def _mount(self, target: Path, *options: str) -> None:
        assert target not in mounted(), f"{target} is mounted already"
        self.run(["mount", *options, str(target)], ["umount", "-l", str(target)])

    def tmpfs(self, folder: Path, size: str) -> None:
        """Mount a small filesystem in memory, empty."""
        folder.mkdir(exist_ok=True)
        self._mount(folder, "-t", "tmpfs", "-o", f"size={size}", "none")

    def ext4(self, folder: Path, size: int) -> None:
        """Mount a small ext4 on an image, empty, with its reserved blocks given free."""
        folder.mkdir(exist_ok=True)
        image = self.scratch / f"{len(self.undo)}.ext4"
        with image.open("wb") as file:
            file.truncate(size)
        # With smaller blocks, as on any disk this small, a full one could not hold SQLite's shared memory: SIGBUS.
        command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", str(image)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: mkfs.ext4: {done.stderr.decode().strip()}")
        self._mount(folder, "-o", "loop", str(image))

    def bind(self, source: Path, target: Path) -> None:
        """Let ``target``, a file or a folder, show what ``source`` holds."""
        self._mount(target, "--bind", str(source))

    def read_only(self, folder: Path) -> None:
        """Let nobody write below ``folder``."""
        self.bind(folder, folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)

    def overlay(self, lower: Path, work: Path, target: Path) -> None:
        """Mount ``lower`` at ``target``, with what changes kept below ``work``."""
        for name in ("upper", "work"):
            (work / name).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'work'}"
        self._mount(target, "-t", "overlay", "overlay", "-o", options)

    def immutable(self, path: Path) -> None:
        """Let nobody change or remove one file or folder."""
        self.run(["chattr", "+i", str(path)], ["chattr", "-i", str(path)])

    def clear(self) -> None:
        """Undo everything, the last first."""
        while self.undo:
            subprocess.run(self.undo.pop(), capture_output=True, check=False)


def mounted() -> list[Path]:
    """Return every mount point of this machine."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1].replace("\\040", " ")) for line in lines]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Return a maker of mounts that undoes them all."""
    made = Mounts(tmp_path)
    yield made
    made.clear()
    assert [place for place in mounted() if place.is_relative_to(tmp_path)] == []
