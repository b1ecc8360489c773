"""The scratch folder of a drill: a project, a pipeline and a configuration of its own, gone when the drill is over."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.archive.catalogue import Catalogue
from release_tasks.assets.files import can_share_blocks, capture_tree, tree_size
from release_tasks.config.schema import HealthConfig, ReliabilityConfig, RestartConfig, Settings
from release_tasks.core.clock import compact
from release_tasks.core.durable import make_private_directory, remove_tree
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import FolderLock
from release_tasks.core.process.find import MarkedProcesses
from release_tasks.core.records import SnapshotMetadata
from release_tasks.core.units import show_mebibytes
from release_tasks.stages.drill.outcome import NotProved

__all__ = [
    "ROOT_VARIABLE",
    "Scratch",
    "copy_snapshot",
    "is_short_of_room",
    "processes_of",
    "require_room",
    "require_safe_parent",
    "scratch_folder",
]

ROOT_VARIABLE = "RELEASE_TASKS_DRILL_ROOT"  # names the scratch project to every process of its drill
_NAME = re.compile(r"release-drill-\d{14}-[0-9a-f]{6}")
_HEADROOM = 16 << 20  # bytes, for logs, journals and what a booted service writes
_RESERVE = 100  # one part in so many of the disk stays free for the service that lives on it
_LEFTOVER_PATIENCE = 2.0  # seconds
_ATTEMPTS = 10


@frozen(kw_only=True)
class Scratch:
    """Where the things of one drill lie. ``live`` is the project folder that it is a copy of."""

    folder: Path
    live: Path

    @property
    def project(self) -> Path:
        """What stands for the project folder."""
        return self.folder / "project"

    @property
    def boot_log(self) -> Path:
        """What a booted service prints."""
        return self.folder / "boot.log"

    def place(self, path: Path) -> Path:
        """Return where a live path lies in here: what lies together live lies together here."""
        if path.is_relative_to(self.live):
            return self.project / path.relative_to(self.live)
        return self.folder / "outside" / path.relative_to(path.anchor)

    def settings(self, live: Settings) -> Settings:
        """Return the configuration that leads nowhere but into the scratch folder: no health, no restart.

        Pairing stores are looked for where nobody restores any, so that a snapshot which holds some is restored as it
        is, and the live log of pairing is not written to.
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
        )
        return evolve(
            live,
            project=self.project,
            release=release,
            pairing=evolve(live.pairing, credentials=self.folder / "credentials"),
            gateway=evolve(live.gateway, root=self.place(live.gateway.root)),
        )


def require_safe_parent(settings: Settings, parent: Path) -> Path:
    """Return the folder that scratch folders are made in; raises UsageError for one that does not exist or is live."""
    if not parent.is_dir():
        raise UsageError(f"--scratch: {parent} is no folder. Make it first, or leave the flag out.")
    real = Path(os.path.realpath(parent))
    live = {"release.root": settings.release.root}
    live |= {f"release.assets.{key}": asset.path for key, asset in settings.release.assets.items()}
    for name, path in live.items():
        if real.is_relative_to(os.path.realpath(path)):
            raise UsageError(f"--scratch: {parent} lies in {name}, and a drill must not touch what is live.")
    return parent


@contextlib.contextmanager
def scratch_folder(live: Path, parent: Path) -> Iterator[Scratch]:
    """Make a private scratch folder below ``parent`` and remove it in the end, and what killed drills left there."""
    make_private_directory(parent)
    _clear_leftovers(parent)
    folder, claim = None, None
    try:
        for _ in range(_ATTEMPTS):
            folder = parent / f"release-drill-{compact()}-{secrets.token_hex(3)}"
            os.mkdir(folder, 0o700)
            claim = _claim(folder)
            if claim is not None:
                break
            with contextlib.suppress(OSError):  # another drill may be removing it, too
                remove_tree(folder)
        if claim is None or folder is None:
            raise NotProved(f"No folder below {parent} can be locked. Name one on a local disk with --scratch DIR.")
        scratch = Scratch(folder=folder, live=live)
        os.mkdir(scratch.project, 0o700)
        yield scratch
    finally:
        with uninterrupted():
            if folder is not None:
                with contextlib.suppress(OSError):  # the next drill tries again
                    remove_tree(folder)
            if claim is not None:
                claim.release()


def require_room(folder: Path, source: Path, snapshot: SnapshotMetadata) -> None:
    """Raise NotProved when the copy of a snapshot and what is restored from it would not fit into ``folder``."""
    size = sum(asset.size for asset in snapshot.assets)
    total, _, free = shutil.disk_usage(folder)
    copies = 0 if can_share_blocks(source / "metadata.json", folder) else 2 * size
    needed = copies + max(_HEADROOM, total // _RESERVE)
    if free < needed:
        raise NotProved(
            f"There is no room for a drill: it needs {show_mebibytes(needed)} and {folder.parent} has "
            f"{show_mebibytes(free)} free. Make room there, or name a folder on another disk with --scratch DIR."
        )


def is_short_of_room(folder: Path, snapshot: SnapshotMetadata) -> bool:
    """Say whether a restore into ``folder`` that failed may have done so for want of room."""
    return shutil.disk_usage(folder).free < sum(asset.size for asset in snapshot.assets) + (_HEADROOM >> 2)


def copy_snapshot(source: Catalogue, target: Catalogue, snapshot_id: str, emit: Emit = ignore) -> None:
    """Copy a snapshot as it lies, blocks shared where the filesystem can. Raises OSError, StageFailed."""
    make_private_directory(target.store.folder)
    stored = source.path(snapshot_id)
    meter = Meter(emit, "copy", snapshot_id, 0 if emit is ignore else tree_size(stored))
    capture_tree(stored, target.path(snapshot_id), count=meter.add)
    meter.finish()


def processes_of(project: Path, group: int | None = None, since: int | None = None) -> MarkedProcesses:
    """Return what finds every process of the drill in ``project``, wherever it went; see MarkedProcesses."""
    return MarkedProcesses(ROOT_VARIABLE, str(project), group, since=since, searches=3)


def _clear_leftovers(parent: Path) -> None:
    """Remove what killed drills left below ``parent``, processes included; what cannot be removed stays."""
    for path in sorted(parent.iterdir()):
        if _NAME.fullmatch(path.name) is None or (claim := _claim(path)) is None:
            continue
        try:
            processes_of(path / "project").terminate(_LEFTOVER_PATIENCE)
            with contextlib.suppress(OSError):
                remove_tree(path)
        finally:
            claim.release()


def _claim(folder: Path) -> FolderLock | None:
    """Return a lock that marks a drill's folder as in use until it is released, also by a kill; else None.

    None when a drill has it, when it is somebody else's, and when it is gone: it may have been taken for a leftover in
    the instant before its drill had claimed it.
    """
    lock = FolderLock(folder)
    with contextlib.suppress(OSError):
        if lock.acquire() and os.lstat(folder).st_uid == os.geteuid():
            return lock
    lock.release()
    return None
