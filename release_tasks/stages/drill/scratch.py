"""The scratch folder of a drill: its own project, pipeline and configuration, removed when the drill ends."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.archive.capacity import Need, shortages
from release_tasks.archive.catalogue import Catalogue
from release_tasks.assets.files import can_share_blocks
from release_tasks.assets.footprint import Footprint, footprint_of
from release_tasks.assets.trees import capture_tree, tree_size
from release_tasks.config.schema import AttestationConfig, HealthConfig, ReliabilityConfig, RestartConfig, Settings
from release_tasks.core.durable import make_private_directory, remove_tree
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.location import is_within
from release_tasks.core.owned import require_own_parent
from release_tasks.core.place import trusted
from release_tasks.core.process.find import MarkedProcesses
from release_tasks.core.records import SnapshotMetadata
from release_tasks.core.scratch import claimed_folder
from release_tasks.core.units import show_mebibytes
from release_tasks.stages.drill.outcome import Inconclusive

__all__ = [
    "ROOT_VARIABLE",
    "Scratch",
    "copy_snapshot",
    "is_short_of_space",
    "processes_of",
    "require_safe_parent",
    "require_space",
    "scratch_folder",
]

ROOT_VARIABLE = "RELEASE_TASKS_DRILL_ROOT"  # the scratch project, set for every process of its drill
_HEADROOM = 16 << 20  # bytes, for logs, journals and what a booted service writes
_RESERVE = 100  # one hundredth of the disk stays free for the live service
_LEFTOVER_GRACE_SECONDS = 2.0
_CHOOSE = "Free some space, or choose a folder on another disk: --scratch DIR."


@frozen(kw_only=True)
class Scratch:
    """The paths of one drill. ``live`` is the live project folder."""

    folder: Path
    live: Path

    @property
    def project(self) -> Path:
        """The copy of the project folder."""
        return self.folder / "project"

    @property
    def boot_log(self) -> Path:
        """The output of the booted service."""
        return self.folder / "boot.log"

    def place(self, path: Path) -> Path:
        """Return the scratch path for a live path; paths in the same live folder stay in one folder."""
        if path.is_relative_to(self.live):
            return self.project / path.relative_to(self.live)
        return self.folder / "outside" / path.relative_to(path.anchor)

    def settings(self, live: Settings) -> Settings:
        """Return a configuration with paths in the scratch folder only, and without health and restart.

        ``pairing.credentials`` is a folder without assets, so pairing stores in the snapshot are restored unchanged and
        the live pairing log is not written.
        """
        assets = {key: asset.at(self.place(asset.path)) for key, asset in live.release.assets.items()}
        release = evolve(
            live.release,
            root=self.folder / "pipeline",
            assets=assets,
            gates={},
            health=HealthConfig(),
            reliability=ReliabilityConfig(),
            restart=RestartConfig(),
            attestation=AttestationConfig(),
        )
        return evolve(
            live,
            project=self.project,
            release=release,
            pairing=evolve(live.pairing, credentials=self.folder / "credentials"),
            gateway=evolve(live.gateway, root=self.place(live.gateway.root)),
        )


def require_safe_parent(settings: Settings, parent: Path) -> Path:
    """Return ``parent``; raise UsageError if it does not exist or is inside the live state, ForeignFolder."""
    if not parent.is_dir():
        raise UsageError(f"--scratch: {parent} is not a directory. Create it, or omit the flag.")
    require_own_parent(parent / "release-drill", "--scratch")
    live = {"release.root": settings.release.root}
    live |= {f"release.assets.{key}": asset.path for key, asset in settings.release.assets.items()}
    for name, path in live.items():
        if is_within(parent, path):
            raise UsageError(f"--scratch: {parent} is inside {name}, and a drill must not touch the live state.")
    return parent


@contextlib.contextmanager
def scratch_folder(live: Path, parent: Path) -> Iterator[Scratch]:
    """Make a private scratch folder below ``parent`` and remove it in the end; first remove those of killed drills."""
    make_private_directory(parent)
    with claimed_folder(parent, "release-drill", clear=_clear) as folder:
        scratch = Scratch(folder=folder, live=live)
        os.mkdir(scratch.project, 0o700)
        yield scratch


def require_space(folder: Path, source: Path, snapshot: SnapshotMetadata) -> None:
    """Raise Inconclusive if the disk of ``folder`` lacks space for the copied snapshot and the restored assets.

    Names count too: a filesystem can have free space and no free inode.
    """
    size = sum(asset.size for asset in snapshot.assets)
    total, _, free = shutil.disk_usage(folder)
    copies = 0 if can_share_blocks(trusted(source / "metadata.json"), folder) else 2 * size
    needed = copies + max(_HEADROOM, total // _RESERVE)
    if free < needed:
        raise Inconclusive(
            f"There is not enough disk space for a drill: it needs {show_mebibytes(needed)}, and {folder.parent} has "
            f"{show_mebibytes(free)} free. {_CHOOSE}"
        )
    names = Footprint(names=2 * footprint_of(trusted(source)).names)  # the copy and the restored state
    for problem in shortages([Need(purpose="a drill", folder=folder, footprint=names)]):
        raise Inconclusive(f"{problem} {_CHOOSE}")


def is_short_of_space(folder: Path, snapshot: SnapshotMetadata) -> bool:
    """Return whether a failed restore into ``folder`` may have failed for lack of disk space."""
    return shutil.disk_usage(folder).free < sum(asset.size for asset in snapshot.assets) + (_HEADROOM >> 2)


def copy_snapshot(source: Catalogue, target: Catalogue, snapshot: SnapshotMetadata, emit: Emit = ignore) -> None:
    """Copy a snapshot unchanged, with shared blocks if the filesystem supports them, and lend it its bases.

    Raises OSError, StageFailed.
    """
    make_private_directory(target.store.folder)
    stored = source.path(snapshot.snapshot_id)
    meter = Meter(emit, "copy", snapshot.snapshot_id, 0 if emit is ignore else tree_size(trusted(stored)))
    capture_tree(trusted(stored), trusted(target.store.partial_path(snapshot.snapshot_id)), count=meter.add)
    source.bases.lend(target.bases, snapshot)
    target.publish(snapshot)
    meter.finish()


def processes_of(project: Path, group: int | None = None, since: int | None = None) -> MarkedProcesses:
    """Return a finder for every process of the drill in ``project``; see MarkedProcesses."""
    return MarkedProcesses(ROOT_VARIABLE, str(project), group, since=since, searches=3)


def _clear(folder: Path) -> None:
    """End the processes of a killed drill and remove its folder."""
    processes_of(folder / "project").terminate(_LEFTOVER_GRACE_SECONDS)
    remove_tree(folder)
