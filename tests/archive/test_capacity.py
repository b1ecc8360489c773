"""A limit of a disk is known before the first byte is copied: space, inodes, the length of names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from release_tasks.archive.capacity import Need, Space, capture_needs, restore_needs, shortages, spaces
from release_tasks.assets.footprint import Footprint, footprint_of
from release_tasks.core.place import trusted
from tests.support.project import Project

MEBIBYTE = 1 << 20


def space_for(size: int = 0, names: int = 0, longest_name: int = 0, **free: int) -> Space:
    footprint = Footprint(size=size, names=names, longest_name=longest_name)
    return Space(
        path=Path("/disk"), needs=[Need(purpose="a copy", folder=Path("/disk/a"), footprint=footprint)], **free
    )


@pytest.mark.parametrize(
    ("space", "problems"),
    [
        (space_for(4096, 2, 5, free_size=4096, free_names=2, name_limit=5), []),
        (
            space_for(5 * MEBIBYTE, free_size=MEBIBYTE),
            ["There is not enough space on the disk of /disk for a copy: 5 MiB needed, 1 MiB free."],
        ),
        (
            space_for(names=200_000, free_names=65_536),
            ["There are not enough inodes on the disk of /disk for a copy: 200000 needed, 65536 free."],
        ),
        (
            space_for(longest_name=200, name_limit=143),
            [
                "The filesystem of /disk is not suitable for a copy: it permits names of 143 bytes, and the state "
                "contains a name of 200 bytes."
            ],
        ),
        (space_for(1 << 60, 1 << 60, 1 << 60), []),
    ],
    ids=["fits exactly", "space", "inodes", "names", "no limits"],
)
def test_each_limit_has_a_sentence_with_both_numbers(space: Space, problems: list[str]) -> None:
    """The sentence names the disk and the purpose; a disk without limits is never short."""
    assert space.problems == problems


def test_footprint_is_never_more_than_a_copy_takes(tmp_path: Path) -> None:
    """Holes take no space, allocation in advance is not copied, and a missing path takes nothing."""
    state = tmp_path / "state"
    (state / "inner").mkdir(parents=True)
    (state / "full").write_bytes(b"x" * 10_000)
    with (state / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"x")
    (state / "inner" / ("n" * 255)).symlink_to("nowhere")
    os.mkfifo(state / "pipe")
    found = footprint_of(trusted(state))
    assert found.names == 6
    assert found.longest_name == 255
    assert 10_000 < found.size < MEBIBYTE
    assert footprint_of(trusted(tmp_path / "missing")) == Footprint()


def test_needs_on_one_disk_are_added_and_other_disks_are_separate(project: Project) -> None:
    """The safety copy and the restored state of one disk are one need; each disk is listed once."""
    snapshot = project.capture()
    assets, catalogue = project.settings.release.assets, project.pipeline.catalogue
    capture = capture_needs(catalogue.store.folder / "not" / "there", assets)
    restore = restore_needs(snapshot, catalogue.path(snapshot.snapshot_id), assets)
    (space,) = spaces([*capture, *restore])
    assert space.needed.names == sum(need.footprint.names for need in [*capture, *restore])
    assert project.folder in (space.path, *space.path.parents)
    assert space.needed.names > footprint_of(trusted(project.identity)).names * 2
    proc = Need(purpose="a copy", folder=Path("/proc/self"), footprint=Footprint(size=1))
    assert len(spaces([*capture, proc])) == 2
    assert shortages([*capture, *restore]) == []
