"""Filesystems on image files whose power can be cut: what was not flushed is gone when they are mounted again.

On ext4 and XFS an ioctl stops the filesystem where it stands, without writing back its cache or its journal
(``EXT4_IOC_SHUTDOWN`` in fs/ext4/ext4.h, ``XFS_IOC_GOINGDOWN`` in fs/xfs/libxfs/xfs_fs.h: one number). Mounting then
replays the journal, as after a real power cut.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from tests.support.faults.scene import Scene

__all__ = ["KINDS", "Disk", "DiskScene", "why_not"]

_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

# noauto_da_alloc: ext4 flushes a file by itself when it is renamed over another, and would hide a missing fsync.
KINDS = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-m", "0"], "noauto_da_alloc,commit=600"),
    "xfs": (["mkfs.xfs", "-q", "-f"], "nouuid"),
}
_SIZES = {"ext4": 16 << 20, "xfs": 300 << 20}  # mkfs.xfs makes none smaller than 300 MiB


class Disk:
    """One filesystem of a kind on a sparse image, mounted at ``place``."""

    def __init__(self, kind: str, image: Path, place: Path) -> None:
        self.kind, self.image, self.place = kind, image, place
        self.is_mounted = False
        with image.open("wb") as file:
            file.truncate(_SIZES[kind])
        _call([*KINDS[kind][0], str(image)])

    @classmethod
    def filled(cls, kind: str, image: Path, folder: Path) -> Disk:
        """Return an unmounted disk that holds what ``folder`` holds and is to be mounted over it."""
        disk = cls(kind, image, folder)
        kept = folder.with_name(folder.name + ".kept")
        folder.rename(kept)
        folder.mkdir()
        disk.mount()
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        disk.unmount()
        shutil.rmtree(kept)
        return disk

    def mount(self) -> None:
        _call(["mount", "-o", f"loop,{KINDS[self.kind][1]}", str(self.image), str(self.place)])
        self.is_mounted = True

    def unmount(self) -> None:
        if self.is_mounted:
            _call(["umount", str(self.place)])
            self.is_mounted = False

    def cut(self, *, after_names: bool = False) -> None:
        """Cut the power: nothing that is not on the disk by now will ever be.

        With ``after_names`` the kernel has just written its journal of its own accord: names, sizes and modes have
        arrived, and bytes that nobody flushed have not.
        """
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if after_names:
                os.fsync(descriptor)
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


class DiskScene(Scene):
    """A scene whose state and whose pipeline lie on a disk each, so that no flush of one helps the other."""

    disks: tuple[Disk, ...] = ()

    def put_on(self, kind: str) -> None:
        """Move the scene onto new disks of a kind and keep these as what ``fresh`` brings back."""
        super().lay_out()
        folder = self.project.folder
        for place in (self.project.state, self.project.pipeline.root):
            image = folder.with_name(f"{folder.name}-{place.name}.image")
            self.disks += (Disk.filled(kind, image, place),)
        for disk in self.disks:
            _copy_sparse(disk.image, _kept(disk))
        self.lay_out()

    def lay_out(self) -> None:
        for disk in self.disks:
            disk.unmount()
            _copy_sparse(_kept(disk), disk.image)
            disk.mount()

    def cut_power(self, *, after_names: bool = False) -> None:
        """Cut both disks at once and bring them back as a reboot would, with device numbers that may be others."""
        for disk in self.disks:
            disk.cut(after_names=after_names)
        for disk in self.disks:
            disk.unmount()
        for disk in reversed(self.disks):
            disk.mount()

    def close(self) -> None:
        for disk in self.disks:
            disk.unmount()


def _kept(disk: Disk) -> Path:
    return disk.image.with_suffix(".kept")


def _copy_sparse(source: Path, goal: Path) -> None:
    # To a new file, because a loop device may be slow to let go of the one that was unmounted: mount would take that
    # device again, with what it remembers of the disk before.
    goal.unlink(missing_ok=True)
    _call(["cp", "--sparse=always", str(source), str(goal)])


def why_not(kind: str) -> str | None:
    """Say why disks of a kind cannot be had here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root"
    tool = KINDS[kind][0][0]
    if shutil.which(tool) is None:
        return f"{tool} is not installed"
    if kind not in Path("/proc/filesystems").read_text().split():
        _ = subprocess.run(["modprobe", kind], capture_output=True, check=False)
        if kind not in Path("/proc/filesystems").read_text().split():
            return f"this kernel has no {kind}"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return None


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
