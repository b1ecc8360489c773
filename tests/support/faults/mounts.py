"""Mounts of several kinds, for tests that run as root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

__all__ = ["Mounts", "mounted"]


class Mounts:
    """Mounts and immutable files, all undone at the end of the test in reverse order; no path is mounted twice."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.undo: list[list[str]] = []

    def run(self, command: list[str], undo: list[str]) -> None:
        """Run a command that ``undo`` reverts; skip the test with NOT TESTED where the system cannot run it."""
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
        self._mount(folder, "-t", "tmpfs", "-o", f"size={size},mode=0755", "none")

    def ext4(self, folder: Path, size: int) -> None:
        """Mount a small ext4 on an image, empty, without reserved blocks."""
        folder.mkdir(exist_ok=True)
        image = self.scratch / f"{len(self.undo)}.ext4"
        with image.open("wb") as file:
            file.truncate(size)
        # With the default, smaller blocks a full disk has no space for SQLite's shared memory,
        # and SQLite ends with SIGBUS.
        command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", str(image)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: mkfs.ext4: {done.stderr.decode().strip()}")
        self._mount(folder, "-o", "loop", str(image))

    def bind(self, source: Path, target: Path) -> None:
        """Mount ``source``, a file or a folder, over ``target``."""
        self._mount(target, "--bind", str(source))

    def read_only(self, folder: Path) -> None:
        """Make everything below ``folder`` read-only."""
        self.bind(folder, folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)

    def overlay(self, lower: Path, work: Path, target: Path) -> None:
        """Mount ``lower`` at ``target`` as the lower layer of an overlay; changes are stored below ``work``."""
        for name in ("upper", "work"):
            (work / name).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'work'}"
        self._mount(target, "-t", "overlay", "overlay", "-o", options)

    def immutable(self, path: Path) -> None:
        """Forbid changes and removal of one file or folder (chattr +i)."""
        self.run(["chattr", "+i", str(path)], ["chattr", "-i", str(path)])

    def clear(self) -> None:
        """Undo everything in reverse order."""
        while self.undo:
            subprocess.run(self.undo.pop(), capture_output=True, check=False)


def mounted() -> list[Path]:
    """Return every mount point of this machine."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1].replace("\\040", " ")) for line in lines]
