"""A swap that ends at one call of a function it is made of, by an error or by a power cut."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal, TypeAlias

import pytest

from release_tasks.assets import base, placing
from release_tasks.assets.sqlite import kind as sqlite
from release_tasks.assets.sqlite import restore
from release_tasks.core.place import Place
from release_tasks.stages.rollback import journal, swap
from tests.support.crash import PowerCut, fail_at
from tests.support.project import Project
from tests.support.rollback import roll_back

__all__ = ["SwapCall", "crash_at", "crash_in_mid_swap"]

SwapCall: TypeAlias = Literal["write_journal", "restore_database", "rename_into_place", "fsync_directory"]


def crash_at(
    patch: pytest.MonkeyPatch, name: SwapCall, number: int, *, after: bool, error: BaseException | None = None
) -> None:
    """Let the swap end at one call of one of the four functions it is made of: by a power cut, or by ``error``."""
    error = PowerCut() if error is None else error
    if name == "write_journal":
        patch.setattr(swap, name, fail_at(number, journal.write_journal, error, after=after))
    elif name == "restore_database":
        patch.setattr(sqlite, name, fail_at(number, restore.restore_database, error, after=after))
    elif name == "rename_into_place":
        patch.setattr(base, name, fail_at(number, placing.rename_into_place, error, after=after))
    else:
        patch.setattr(Place, "flush_folder", _in_swap(fail_at(number, Place.flush_folder, error, after=after)))


def _in_swap(failing: Callable[[Place], None]) -> Callable[[Place], None]:
    """Count the calls of ``rename_into_place`` alone."""
    real = Place.flush_folder

    def flush_folder(place: Place) -> None:
        is_of_swap = sys._getframe(1).f_code is placing.rename_into_place.__code__
        (failing if is_of_swap else real)(place)

    return flush_folder


def crash_in_mid_swap(project: Project, name: SwapCall, number: int, *, after: bool) -> None:
    """Leave the journal of an interrupted rollback behind, as a kill at that call does."""
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, name, number, after=after)
        with pytest.raises(PowerCut):
            roll_back(project)
    assert project.pipeline.journal_path.exists()
