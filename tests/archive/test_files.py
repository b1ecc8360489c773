"""Copies of files and folders: owners, modes, holes, and files that change or only seem to change meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks.assets.files import Gaps, Unreadable, capture_file, place_file
from release_tasks.assets.overwrite import overwrite_file, overwrite_tree
from release_tasks.assets.trees import capture_tree, place_tree, scan_tree
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: owners: only root may change them")
MIB = 1 << 20


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def owners_and_modes(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = os.lstat(path)
        found[str(path.relative_to(root))] = (info.st_uid, info.st_gid, info.st_mode)
    return found


def sparse_file(path: Path, size: int) -> None:
    """Write 8 KiB in the middle of a hole."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"data" * 2048)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@as_root
@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
@pytest.mark.parametrize("folder_mode", [0o755, 0o2755])
def test_owners_and_modes_come_back_below_any_folder_and_umask(tmp_path: Path, mask: int, folder_mode: int) -> None:
    """Also below a folder with the setgid bit, which gives its group to every new file."""
    live = tmp_path / "live"
    (live / "inner").mkdir(parents=True)
    (live / "inner" / "file").write_text("x")
    (live / "link").symlink_to("inner")
    (live / "setuid").write_text("x")
    os.chown(live / "inner", 12, 34)
    os.chown(live / "link", 12, 34, follow_symlinks=False)
    os.chown(live / "setuid", 1000, 1000)
    for path, mode in ((live / "setuid", 0o6755), (live / "inner" / "file", 0o640), (live / "inner", 0o2710)):
        os.chmod(path, mode)
    expected = owners_and_modes(live)
    places = [tmp_path / "pipeline", tmp_path / "state"]
    for place in places:
        place.mkdir()
        os.chown(place, 0, 33)
        os.chmod(place, folder_mode)
    with umask(mask):
        entries = capture_tree(trusted(live), trusted(places[0] / "copy")).entries
        place_tree(places[0] / "copy", trusted(places[1] / "placed"), entries, stat.S_IMODE(live.stat().st_mode))
        (places[1] / "overwritten").mkdir()
        mode = stat.S_IMODE(live.stat().st_mode)
        record = AssetRecord(key="k", relative_path="r", kind="directory", exists=True, mode=mode, entries=entries)
        overwrite_tree(record, places[0] / "copy", trusted(places[1] / "overwritten"))
    assert owners_and_modes(places[1] / "placed") == expected
    assert owners_and_modes(places[1] / "overwritten") == expected
    stored = {path: mode & 0o7777 for path, (_, _, mode) in owners_and_modes(places[0] / "copy").items()}
    assert set(stored.values()) == {0o700, 0o600, 0o777}
    assert stored["inner"] == 0o700


@pytest.mark.parametrize("size", [64 * MIB, 64 * MIB + 1, 16 * 1024])
def test_holes_stay_holes_in_every_copy(tmp_path: Path, size: int) -> None:
    """In the snapshot, after a restore and after an overwrite in place; the digest is that of all bytes."""
    live, copy, placed, over = (tmp_path / name for name in ("live", "copy", "placed", "over"))
    sparse_file(live, size)
    entry = capture_file(trusted(live), trusted(copy))
    assert entry.sha256 == sha256_file(live) == sha256_file(copy)
    assert entry.size == size
    assert place_file(trusted(copy), trusted(placed), 0o644)[0] == entry.sha256
    over.write_bytes(os.urandom(min(size, MIB)))
    with overwrite_file(copy, trusted(over), 0o600, entry.sha256):
        pass
    assert sha256_file(placed) == sha256_file(over) == entry.sha256
    for path in (copy, placed, over):
        assert allocated(path) <= max(allocated(live), 128 * 1024), path


def test_file_that_is_one_hole_and_empty_file_are_copied(tmp_path: Path) -> None:
    """A size without any data, and no size at all."""
    for size in (0, 3 * MIB):
        live, copy = tmp_path / f"live-{size}", tmp_path / f"copy-{size}"
        with live.open("wb") as file:
            file.truncate(size)
        assert capture_file(trusted(live), trusted(copy)).size == size
        assert sha256_file(copy) == sha256_file(live)
        assert copy.stat().st_size == size


@pytest.mark.parametrize("hours", [-24 * 365, -2, 2, 24 * 365])
def test_files_at_rest_are_captured_under_any_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A clock that was put back, or a file server that is ahead: equal stamps decide."""
    live = tmp_path / "live"
    live.mkdir()
    for number in range(300):
        (live / str(number)).write_text(str(number))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + hours * 3600 * 10**9)
    started = time.monotonic()
    entries = capture_tree(trusted(live), trusted(tmp_path / "copy")).entries
    assert len(entries) == 300
    assert time.monotonic() - started < 5.0
    assert scan_tree(trusted(live)).entries == entries


@pytest.mark.parametrize("hours", [0, -2, 2])
def test_write_during_a_read_is_found_under_any_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A file that changes during each read is never captured as if it were at rest."""
    live = tmp_path / "live"
    live.write_bytes(b"a" * MIB)
    read, real = os.read, time.time_ns

    def read_and_be_overtaken(fd: int, count: int) -> bytes:
        data = read(fd, count)
        if data:
            with live.open("r+b") as file:
                file.write(os.urandom(1))
        return data

    monkeypatch.setattr(time, "time_ns", lambda: real() + hours * 3600 * 10**9)
    monkeypatch.setattr(os, "read", read_and_be_overtaken)
    with pytest.raises(StageFailed, match="was not stable"):
        capture_file(trusted(live), trusted(tmp_path / "copy"))
    gaps = Gaps()
    capture_file(trusted(live), trusted(tmp_path / "unstable"), gaps=gaps)
    assert gaps.unstable == ["live"]
    assert (tmp_path / "unstable").stat().st_size == MIB


def test_safety_copy_names_what_it_lacks(tmp_path: Path) -> None:
    """At most 50 names, and the number of all; the rest is copied."""
    live = tmp_path / "live"
    (live / "inner").mkdir(parents=True)
    (live / "inner" / "file").write_text("x")
    for number in range(60):
        os.mkfifo(live / f"pipe-{number:02}")
    gaps = Gaps()
    entries = capture_tree(trusted(live), trusted(tmp_path / "copy"), gaps).entries
    assert [entry.path for entry in entries] == ["inner", "inner/file"]
    assert (len(gaps.left_out), gaps.left_out_count) == (50, 60)
    record = gaps.on(AssetRecord(key="k", relative_path="r", kind="directory", exists=True))
    assert (record.left_out_count, record.unstable) == (60, None)
    with pytest.raises(StageFailed, match="named pipe"):
        capture_tree(trusted(live), trusted(tmp_path / "strict"))


def test_safety_copy_of_what_is_no_folder_is_unreadable(tmp_path: Path) -> None:
    """The caller then copies whatever is there."""
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(Unreadable):
            capture_tree(trusted(tmp_path / name), trusted(tmp_path / f"copy-{name}"), Gaps())


def test_release_tolerates_folders_that_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was listed and is gone when it is opened, or empty when it is listed."""
    live = tmp_path / "live"
    for name in ("gone", "kept"):
        (live / name).mkdir(parents=True)
        (live / name / "file").write_text("x")
    real = os.open

    def open_later(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "gone" and (live / "gone" / "file").exists():
            (live / "gone" / "file").unlink()
            (live / "gone").rmdir()
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_later)
    entries = capture_tree(trusted(live), trusted(tmp_path / "copy")).entries
    assert [entry.path for entry in entries] == ["kept", "kept/file"]
    assert sorted(os.listdir(tmp_path / "copy")) == ["kept"]
