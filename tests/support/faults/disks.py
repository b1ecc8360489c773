"""Filesystems on image files that can lose power: after the next mount, everything that was not flushed is gone.

On ext4 and XFS an ioctl stops the filesystem immediately, without writing back its cache or its journal
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

from tests.support.faults.scenario import DeltaScenario, Scenario, run_command

__all__ = ["FILESYSTEMS", "DeltaDiskScenario", "Disk", "DiskScenario", "why_not"]

_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

# noauto_da_alloc: without it ext4 flushes a file that is renamed over another one, which hides a missing fsync.
FILESYSTEMS = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-m", "0"], "noauto_da_alloc,commit=600"),
    "xfs": (["mkfs.xfs", "-q", "-f"], "nouuid"),
}
_SIZES = {"ext4": 16 << 20, "xfs": 300 << 20}  # mkfs.xfs makes none smaller than 300 MiB


class Disk:
    """One filesystem on a sparse image, mounted at ``folder``."""

    def __init__(self, filesystem: str, image: Path, folder: Path) -> None:
        self.filesystem, self.image, self.folder = filesystem, image, folder
        self.is_mounted = False
        with image.open("wb") as file:
            file.truncate(_SIZES[filesystem])
        run_command([*FILESYSTEMS[filesystem][0], str(image)])

    @classmethod
    def filled(cls, filesystem: str, image: Path, folder: Path) -> Disk:
        """Return an unmounted disk with the content of ``folder``, to be mounted over it."""
        disk = cls(filesystem, image, folder)
        original = folder.with_name(folder.name + ".original")
        folder.rename(original)
        folder.mkdir()
        disk.mount()
        shutil.copytree(original, folder, symlinks=True, dirs_exist_ok=True)
        disk.unmount()
        shutil.rmtree(original)
        return disk

    def mount(self) -> None:
        run_command(["mount", "-o", f"loop,{FILESYSTEMS[self.filesystem][1]}", str(self.image), str(self.folder)])
        self.is_mounted = True

    def unmount(self) -> None:
        if self.is_mounted:
            run_command(["umount", str(self.folder)])
            self.is_mounted = False

    def cut(self, *, after_names: bool = False) -> None:
        """Cut the power: everything that is not on the disk yet is lost.

        With ``after_names`` the kernel writes its journal first: names, sizes and modes are on the disk, and bytes that
        were not flushed are not.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if after_names:
                os.fsync(descriptor)
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


class DiskScenario(Scenario):
    """A scenario with state and pipeline on separate disks, so that no flush of one flushes the other."""

    disks: tuple[Disk, ...] = ()

    def move_to_disks(self, filesystem: str) -> None:
        """Move state and pipeline onto new disks, and save these disks as the template of ``reset``."""
        super().restore_files()
        folder = self.project.folder
        for target in (self.project.state, self.project.pipeline.root):
            image = folder.with_name(f"{folder.name}-{target.name}.image")
            self.disks += (Disk.filled(filesystem, image, target),)
        for disk in self.disks:
            _copy_sparse(disk.image, _template_of(disk))
        self.restore_files()

    def restore_files(self) -> None:
        for disk in self.disks:
            disk.unmount()
            _copy_sparse(_template_of(disk), disk.image)
            disk.mount()

    def cut_power(self, *, after_names: bool = False) -> None:
        """Cut both disks and mount them again as after a reboot; their device numbers may change."""
        for disk in self.disks:
            disk.cut(after_names=after_names)
        for disk in self.disks:
            disk.unmount()
        for disk in reversed(self.disks):
            disk.mount()

    def close(self) -> None:
        for disk in self.disks:
            disk.unmount()


class DeltaDiskScenario(DeltaScenario, DiskScenario):
    """Releases with deltas, on disks; on XFS the copies are clones of the base."""

    def check_deltas(self, point: object) -> None:
        """Expect deltas only where the filesystem cannot share blocks."""
        if self.disks[0].filesystem != "xfs":
            super().check_deltas(point)


def _template_of(disk: Disk) -> Path:
    return disk.image.with_suffix(".template")


def _copy_sparse(source: Path, target: Path) -> None:
    # To a new file: a loop device may keep the unmounted file for a while, and mount would reuse that device with its
    # cache of the old content.
    target.unlink(missing_ok=True)
    run_command(["cp", "--sparse=always", str(source), str(target)])


def why_not(filesystem: str) -> str | None:
    """Return why this filesystem cannot be made and mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root"
    tool = FILESYSTEMS[filesystem][0][0]
    if shutil.which(tool) is None:
        return f"{tool} is not installed"
    if filesystem not in Path("/proc/filesystems").read_text().split():
        _ = subprocess.run(["modprobe", filesystem], capture_output=True, check=False)
        if filesystem not in Path("/proc/filesystems").read_text().split():
            return f"this kernel has no {filesystem}"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return None
