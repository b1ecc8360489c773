"""The protocol of an asset kind: its options in invoke.yaml, and how its state is captured, compared and restored.

A kind is one module with an options class and a subclass of ``AssetKind``, and a line in ``kinds.py``. Capture, plan,
swap, recovery, drill and verification call methods of the kind; no other package tests the name of a kind.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from attrs import evolve, frozen

from release_tasks.assets.files import Gaps, Unreadable, capture_file, place_file, place_link, scan_file
from release_tasks.assets.findings import AssetFinding, CopyCheck, Drift, Inspection, Listing
from release_tasks.assets.footprint import Footprint, footprint_of
from release_tasks.assets.overwrite import remove_live, restore_raw_copy
from release_tasks.assets.placing import discard_staged, inode_of, rename_into_place, staged
from release_tasks.assets.protection import restore_blockers
from release_tasks.assets.stored import is_folder, is_mode, owner_difference, stored_path, verify_tree
from release_tasks.assets.trees import capture_tree, place_tree, scan_tree
from release_tasks.core.digests import FileDigests
from release_tasks.core.durable import remove_tree
from release_tasks.core.entries import entries_digest
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.holes import most_data
from release_tasks.core.options import option
from release_tasks.core.place import Place, find, found, trusted
from release_tasks.core.records import AssetRecord, DatabaseRestore, Inode, JournalStep, SnapshotMetadata

__all__ = ["AssetConfig", "AssetKind", "Base", "Hold", "Move", "Scan", "State"]

_REMAINS_MODE = 0o700
State = Literal["old", "new", "partial"]


@frozen(kw_only=True)
class Base:
    """A plain stored copy of an asset, of which a new capture stores what differs.

    ``path`` is the file, ``sha256`` its recorded digest, ``snapshot_id`` the snapshot that captured it. ``keep`` makes
    it stay durably for as long as a stored delta needs it; it raises OSError where that is impossible.
    """

    path: Path
    sha256: str
    snapshot_id: str
    keep: Callable[[], None]


class Hold(Protocol):
    """A lock on a live asset, under which its new state is written before any asset is changed."""

    def write(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the new state so that only the commit is left; other processes do not see it yet.

        ``progress`` gets (written bytes, total bytes). Raises StageFailed, OSError; ``release`` then undoes it.
        """

    def commit(self) -> None:
        """Put the new state in place, and release the lock. Raises StageFailed, OSError."""

    def release(self) -> None:
        """Undo what is not committed, and release the lock; may be repeated."""

    def noted(self, step: JournalStep) -> JournalStep:
        """Return the journal step with what a recovery needs to know about the written state."""


class Scan(Protocol):
    """A live asset that was compared with its new state before it is locked.

    Its safety copy is completed under the lock, so it has every change that the service made up to then.
    """

    def capture(self, record: AssetRecord, copy: Path | None, emit: Emit) -> AssetRecord:
        """Compare the live asset with its new state, and return its record.

        The safety copy goes to the new file ``copy``; None for a rollback without one. Raises Damaged when the state
        is no asset of this kind, StageFailed, OSError.
        """

    def lock(self, seconds: float) -> contextlib.AbstractContextManager[Hold]:
        """Lock the asset while the block runs. Raises Busy after ``seconds``, StageFailed, OSError."""

    def seal(self, record: AssetRecord) -> AssetRecord:
        """Add the changes since ``capture`` to the safety copy, now that the lock is held; return its final record.

        Without a copy, changes leave the record without digests. Raises StageFailed, OSError.
        """

    def release(self) -> None:
        """Give up the comparison, when the asset does not change; may be repeated."""

    def measured(self) -> DatabaseRestore:
        """Return how the asset is restored, and what it cost."""


@frozen(kw_only=True)
class AssetConfig:
    """A piece of state that is captured and restored; it has exactly one kind."""

    kind: AssetKind
    options: Any  # of the class ``kind.options``
    required: bool = option("when missing, the release is blocked", True)
    lock_wait: float = 30.0  # of ``release.lock_wait``: seconds to wait for a lock of another process
    restores_by_page: bool = False  # of ``release.storage``
    deltas_above: int | None = None  # of ``release.storage``: bytes from which a copy may be a delta; None for never

    @property
    def path(self) -> Path:
        """The absolute path of the live asset."""
        path: Path = getattr(self.options, self.kind.path_option)
        return path

    @property
    def plugin(self) -> str | None:
        """The name of the plugin's asset kind that captures the asset, or None."""
        return getattr(self.options, "python", None)

    def found(self) -> contextlib.AbstractContextManager[Place]:
        """Look up the live asset; see ``core.place.found``."""
        return found(self.path)

    def at(self, path: Path) -> AssetConfig:
        """Return the same asset at another path."""
        return evolve(self, options=evolve(self.options, **{self.kind.path_option: path}))

    def takes(self, record: AssetRecord) -> bool:
        """Return whether a captured asset can be restored to this one."""
        return record.kind in self.kind.restores


@frozen(kw_only=True)
class Move:
    """The execution of one journal step: forward to the target snapshot, or back to the safety snapshot.

    ``source`` is that snapshot and ``folder`` its folder; both are None when no safety snapshot was taken. ``note``
    writes a changed step to the journal durably and returns it; ``amend`` changes the step in this process only.
    ``hold`` is the lock on the asset, for a step that was written under it.
    """

    asset: AssetConfig
    step: JournalStep
    rollback_id: str
    is_forward: bool
    source: SnapshotMetadata | None
    folder: Path | None
    note: Callable[[JournalStep], JournalStep]
    amend: Callable[[JournalStep], None]
    hold: Hold | None = None
    emit: Emit = ignore

    @property
    def target_inode(self) -> Inode | None:
        """The file or folder that the step puts at ``live``; None when the step removes ``live``."""
        return self.step.new if self.is_forward else self.step.old

    @property
    def record(self) -> AssetRecord:
        """The record of the asset in ``source``; raises StageFailed when ``source`` has no such asset."""
        if self.source is None:
            raise StageFailed(f"{self.asset.path} cannot be written back: no safety snapshot was taken.")
        record = self.source.asset(self.step.key)
        if record is None:
            raise StageFailed(f"Snapshot {self.source.snapshot_id} has no asset {self.step.key!r}.")
        return record

    @property
    def stored(self) -> Path:
        """The path of the asset's copy in ``source``."""
        record = self.record
        assert self.folder is not None
        return stored_path(self.folder, record)


class AssetKind:
    """A kind of state. The default methods are for files and folders: they copy state and exchange names.

    ``name`` is the kind's key in invoke.yaml, and ``options`` the attrs class of its keys. ``restores`` is the set of
    record kinds that can be restored to such an asset. ``records_as`` is the record kind of an absent asset.
    """

    name: ClassVar[str]
    options: ClassVar[type]
    restores: ClassVar[frozenset[str]]
    records_as: ClassVar[Literal["sqlite", "file", "directory"]]
    state_check_cost: ClassVar[int] = 0  # 0: ``find_drift`` makes no copy; lower costs are called first
    shares_blocks: ClassVar[bool] = True  # whether its copies share blocks, where the filesystem can do that
    allows_plugins: ClassVar[bool] = True  # whether a plugin may have captured the copy of such a record

    @property
    def path_option(self) -> str:
        """The option that holds the path."""
        return self.name

    def asset(self, path: Path, **common: Any) -> AssetConfig:
        """Return an asset of this kind at ``path``."""
        return AssetConfig(kind=self, options=self.options(**{self.path_option: path}), **common)

    def capture_blockers(self, key: str, asset: AssetConfig) -> list[str]:
        """Return the reasons why a capture, or a rollback to it, would fail, apart from missing files."""
        try:
            reasons = restore_blockers(asset.path)
        except (StageFailed, OSError) as error:
            reasons = [describe_error(error)]
        return [f"{key}: {reason} (release.assets.{key}.{self.path_option})" for reason in reasons]

    # Capture

    def size(self, asset: AssetConfig) -> int:
        """Return an estimate of the bytes that a capture will write. Raises OSError."""
        with asset.found() as live:
            return most_data(live.info())

    def capture_footprint(self, asset: AssetConfig) -> Footprint:
        """Return the space that a capture takes in the snapshot, at least; nothing for what cannot be reached."""
        with contextlib.suppress(StageFailed, OSError), asset.found() as live:
            return footprint_of(live)
        return Footprint()

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the live state to ``copy``, which does not exist yet, and return the completed ``record``.

        With ``allow_damaged``, for a safety snapshot, state that can only be captured in part is captured in part.
        Raises Damaged when the state is no asset of this kind, StageFailed or OSError when it cannot be captured.
        """
        raise TypeError(f"assets of kind {self.name} have no capture")

    def can_store_deltas(self) -> bool:
        """Return whether ``capture_against`` can store what differs from an earlier copy."""
        return False

    def capture_against(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, base: Base, *, emit: Emit = ignore
    ) -> AssetRecord:
        """Capture as ``capture`` does, and store only what differs from ``base``.

        What differs too much, and what cannot be stored so, is copied whole. Raises the errors of ``capture``.
        """
        return self.capture(asset, record, copy, emit=emit, allow_damaged=True)

    def look(self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore) -> AssetRecord:
        """Copy the live state for a comparison, as ``capture`` does for a safety snapshot, and change nothing live.

        Names, bytes, inodes and modification times of the live state and of its folder stay the same. ``copy`` is in a
        scratch folder of the caller. Raises the errors of ``capture``.
        """
        return self.capture(asset, record, copy, emit=emit, allow_damaged=True)

    def can_replace_content(self, asset: AssetConfig) -> bool:
        """Return whether the live state can be read as an asset of this kind, without a copy. Raises StageFailed."""
        return True

    def raw_places(self, live: Place) -> list[Place]:
        """Return the places that ``capture_raw`` copies."""
        return [live]

    def capture_raw(self, asset: AssetConfig, record: AssetRecord, copy: Path, emit: Emit = ignore) -> AssetRecord:
        """Copy live state that cannot be read as an asset of this kind, byte for byte."""
        meter = Meter(emit, "capture", record.key, 0)
        gaps = Gaps()
        remove_tree(copy)
        os.mkdir(copy, 0o700)
        with asset.found() as live:
            for place in self.raw_places(live):
                try:
                    _copy_raw(place, trusted(copy / place.name), meter, gaps)
                except Unreadable as unreadable:
                    if not isinstance(unreadable.error, FileNotFoundError):
                        gaps.leave_out(place.name)
        meter.finish()
        entries = scan_tree(trusted(copy)).entries
        size = sum(entry.size for entry in entries)
        record = evolve(record, exists=True, damaged=True, size=size, sha256=entries_digest(entries), entries=entries)
        return gaps.on(record)

    # Verification and comparison

    def verify(
        self, record: AssetRecord, stored: Path, meter: Meter, digests: FileDigests | None = None
    ) -> list[AssetFinding]:
        """Compare the digest of a stored copy with its record.

        ``digests`` are those of files that were read before: an inode of several snapshots is read once. Raises
        StageFailed or OSError when the copy cannot be read.
        """
        info = os.lstat(stored)
        is_tree = is_folder(record)
        if is_tree != stat.S_ISDIR(info.st_mode) or not (is_tree or stat.S_ISREG(info.st_mode)):
            raise StageFailed(f"is not a {'folder' if is_tree else 'regular file'}")
        if is_tree:
            size, findings = record.size, verify_tree(record, stored, meter)
        else:
            if digests is not None and info.st_nlink > 1:
                size, found = info.st_size, digests.of(stored, meter.add)
            else:
                entry = scan_file(trusted(stored), meter.add)
                size, found = entry.size, str(entry.sha256)
            meter.finish()
            findings = []
            if found != record.sha256:
                findings = [AssetFinding(key=record.key, what="was altered", expected=record.sha256, found=found)]
        invalid = self.invalid_value(record)
        if size != record.size:
            invalid = f"a size of {record.size} for {size} bytes"
        if findings or not invalid:
            return findings
        return [AssetFinding(key=record.key, what=f"its record was altered: it has {invalid}")]

    def invalid_value(self, record: AssetRecord) -> str | None:
        """Return a description of a value that no capture writes, or None.

        The checksum of a record can be forged, and a restore calls ``chmod`` with the modes of a record.
        """
        if not is_mode(record.mode):
            return "an invalid mode"
        if record.content_digest is not None and not self.may_have_content_digest(record):
            return "a content digest that differs from the digest of its bytes"
        if (record.delta is not None or record.pending) and not self.may_have_delta(record):
            return "a delta that it cannot have"
        cannot_have_plugin = record.damaged or record.plugin_problem is not None or not self.allows_plugins
        if record.plugin is not None and cannot_have_plugin:
            return "a plugin that cannot have captured it"
        return None

    def may_have_content_digest(self, record: AssetRecord) -> bool:
        """Return whether a capture can have written the content digest of ``record``."""
        return False

    def may_have_delta(self, record: AssetRecord) -> bool:
        """Return whether a capture can have written the values of a delta in ``record``."""
        return False

    def stored_digest(self, record: AssetRecord) -> str | None:
        """Return the recorded digest of the stored file, which may be a delta."""
        return record.sha256 if record.delta is None else record.delta.sha256

    def check_legacy(self, record: AssetRecord, stored: Path) -> list[AssetFinding]:
        """Return the problems of a copy of the older tool, which has no digests."""
        return []

    def examine(self, record: AssetRecord, asset: AssetConfig | None, copy: Path) -> CopyCheck | None:
        """Check the content of a copy, through the plugin that captured it where one did; None without such a check.

        A plugin gets the options of ``asset``.
        """
        return None

    def capture_notes(self, record: AssetRecord) -> list[str]:
        """Return sentences for the operator about a captured asset, such as what could not be checked in it."""
        return []

    def inspect(self, record: AssetRecord, copy: Path) -> Inspection | None:
        """Read the whole content of a copy; None for a kind without a structure that could be checked."""
        return None

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the named parts of a copy, for a comparison with another copy; empty for a kind without such parts."""
        return []

    def digest(self, record: AssetRecord, place: Place) -> str | None:
        """Return the digest of the state at ``place``, which no process uses, for a comparison with ``record``."""
        return scan_file(place).sha256

    def side_files(self, live: Place) -> list[Place]:
        """Return the places next to ``live`` that belong to the live state and that a restore must remove."""
        return []

    def compare(self, record: AssetRecord, live: AssetRecord) -> str:
        """Describe how the live state differs from a captured state; an empty text when it does not differ."""
        is_same = (live.content_digest or live.sha256) == (record.content_digest or record.sha256)
        if is_same and live.mode == record.mode:
            return ""
        if is_same:
            return f"mode {live.mode:o} instead of {record.mode:o}"
        return f"content differs ({live.size} bytes live, {record.size} in the snapshot)"

    def describe(self, record: AssetRecord) -> str:
        """Return the text that describes a captured asset to the operator."""
        return record.kind if record.plugin is None else f"{record.kind}, captured by {record.plugin}"

    def find_drift(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, scratch: Path | None, emit: Emit = ignore
    ) -> Drift:
        """Compare the live asset with its restored ``record`` and the copy at ``stored``; changes nothing.

        Files and folders must equal the record, byte for byte. ``scratch`` is the path of a folder that may be created
        and that the caller removes; None for a kind without ``state_check_cost``. Raises StageFailed or OSError when a
        kind needs a copy and cannot make it.
        """
        missing = self.find_misplaced(asset, record)
        if missing is not None:
            return missing
        try:
            difference = self.compare(record, self.read_live(asset, record))
            with asset.found() as live:
                difference = difference or owner_difference(record, stored, live)
        except (StageFailed, OSError) as error:  # for instance a socket, or a file without the right to read it
            difference = describe_error(error).rstrip(".")
        return Drift(form=[difference] if difference else [])

    def find_misplaced(self, asset: AssetConfig, record: AssetRecord) -> Drift | None:
        """Return the drift of an asset whose presence or type differs, or that is absent as recorded; else None."""
        if not asset.takes(record):
            return Drift(form=[f"configured as {self.name}, and the snapshot contains a {record.kind}"])
        try:
            info = self.live_info(asset)
        except (StageFailed, OSError) as error:  # for instance a folder above it without the right to search
            return Drift(form=[describe_error(error).rstrip(".")], is_lost=True)
        if info is None:
            return Drift(form=["missing"], is_lost=True) if record.exists else Drift()
        if not record.exists:
            return Drift(form=["it did not exist at snapshot time"])
        is_right_type = stat.S_ISDIR(info.st_mode) if is_folder(record) else stat.S_ISREG(info.st_mode)
        return None if is_right_type else Drift(form=[f"not a {'folder' if is_folder(record) else 'regular file'}"])

    def live_info(self, asset: AssetConfig) -> os.stat_result | None:
        """Return the result of lstat of the live asset, None when it is missing. Raises StageFailed, OSError."""
        with find(asset.path) as live:
            return None if live is None else live.look()

    def read_live(self, asset: AssetConfig, record: AssetRecord) -> AssetRecord:
        """Return the record of the live state without a copy. Raises StageFailed, OSError."""
        with asset.found() as live:
            entry = scan_file(live)
        return evolve(record, size=entry.size, sha256=entry.sha256, mode=entry.mode)

    def compare_copies(self, record: AssetRecord, stored: Path, live: AssetRecord, copy: Path) -> Drift:
        """Compare a captured state with a capture of the live state, of which ``copy`` is the copy."""
        difference = self.compare(record, live)
        return Drift(form=[difference] if difference else [])

    # A rollback, in the order of its steps

    def restore_footprint(self, asset: AssetConfig, stored: Path) -> Footprint:
        """Return the space that a restore of a stored copy takes next to the live asset, at least."""
        return footprint_of(trusted(stored))

    def scan(self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore) -> AssetRecord:
        """Capture the live state for the safety snapshot, before any lock is held."""
        return self.capture(asset, record, copy, emit=emit, allow_damaged=True)

    def stage(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, rollback_id: str, *, is_usable: bool, emit: Emit
    ) -> JournalStep:
        """Write the new state durably next to the asset, and return the journal step that puts it in place.

        ``is_usable``: the live asset exists and can be read. The live state stays unchanged. Raises StageFailed and
        OSError.
        """
        step = JournalStep(key=record.key, path=str(asset.path), action="place")
        with asset.found() if record.exists else find(asset.path) as live:
            if live is None:
                return step
            if record.exists:
                copy = staged(live, rollback_id)
                copy.remove()
                meter = Meter(emit, "stage", record.key, record.size)
                step = evolve(step, new=self.place(record, stored, copy, meter))
                meter.finish()
                copy.flush()
                copy.flush_folder()
            folder = live.folder_info()
            return evolve(step, old=inode_of(live), folder=Inode(device=folder.st_dev, number=folder.st_ino))

    def place(self, record: AssetRecord, stored: Path, target: Place, meter: Meter) -> Inode:
        """Copy stored state to ``target``, verify its bytes, and return the inode of the copy.

        Raises StageFailed when they differ, OSError.
        """
        assert record.mode is not None
        if is_folder(record):
            return place_tree(stored, target, record.entries or [], record.mode, meter.add)
        digest, inode = place_file(trusted(stored), target, record.mode, meter.add)
        if digest != record.sha256:
            raise StageFailed(f"{stored} changed while it was staged; the live state was not changed.")
        return inode

    def extract(self, record: AssetRecord, stored: Path, target: Place, meter: Meter) -> Inode:
        """Copy stored state to ``target``, which must not exist, with the recorded bytes and modes.

        Of a raw copy, the folder with the remains. Returns the inode of the copy. Raises the errors of ``place``.
        """
        whole = evolve(record, mode=_REMAINS_MODE) if record.damaged else record
        return AssetKind.place(self, whole, stored, target, meter)

    @contextlib.contextmanager
    def scanned(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, emit: Emit
    ) -> Iterator[Scan | DatabaseRestore | None]:
        """Prepare a comparison of the live asset with its new state, for a restore in proportion to what differs.

        Yields None for a kind without one, and the reason where this asset can only be restored as a whole. Raises
        Busy, StageFailed, OSError.
        """
        yield None

    @contextlib.contextmanager
    def lock(
        self, asset: AssetConfig, step: JournalStep, record: AssetRecord, stored: Path, seconds: float
    ) -> Iterator[Hold | None]:
        """Lock the asset against changes by the service while the block runs; files and folders cannot be locked.

        ``stored`` is the copy of ``record`` that ``step`` will restore. Raises Busy when another process holds the lock
        for ``seconds``, StageFailed, OSError.
        """
        yield None

    def state_of(self, step: JournalStep) -> State:
        """Return the progress of a step: ``old`` before it, ``new`` after it, ``partial`` when it must be repeated."""
        return "new" if step.done else "partial"

    def commit(self, move: Move) -> None:
        """Put the new state in place; may be repeated. Raises StageFailed, OSError; ``abort`` undoes it."""
        self._put(move)

    def abort(self, move: Move) -> None:
        """Put the old state back in place after any part of ``commit``; may be repeated."""
        self._put(move)

    def finish(
        self,
        asset: AssetConfig,
        rollback_ids: Collection[str],
        steps: Collection[JournalStep] = (),
        emit: Emit = ignore,
    ) -> list[Path]:
        """Remove the staged files of these rollbacks, when no journal needs them any more; return their paths.

        ``steps`` are those of their journals, as far as they are known.
        """
        own = [inode for step in steps if step.path == str(asset.path) for inode in (step.old, step.new)]
        return discard_staged(asset.path, rollback_ids, own, emit)

    def _put(self, move: Move) -> None:
        with contextlib.ExitStack() as held:
            if move.step.action == "place" and move.target_inode is None:
                live = held.enter_context(find(move.asset.path))
            else:
                live = held.enter_context(move.asset.found())
            if live is not None:  # otherwise the state is absent, as it should be, and so is its folder
                self._apply(move, live)

    def _apply(self, move: Move, live: Place) -> None:
        if move.step.mirrored or not self.exchange(move, live):
            if move.step.exchange_only and move.is_forward:
                raise StageFailed(
                    f"{live.path} cannot be exchanged with its new state: it is a mount point, or a lower layer of an "
                    "overlay has it. To overwrite it could lose what the safety copy lacks. Stop the service, remove "
                    "what cannot be copied, then run the rollback again."
                )
            # Write this to the journal first: after an overwrite, the inode does not show whether the state is new.
            move.note(evolve(move.step, mirrored=True))
            self.overwrite(move.record, move.stored, live)

    def exchange(self, move: Move, live: Place) -> bool:
        """Rename the target file or folder to ``live``; return False when no rename can do that."""
        return rename_into_place(live, move.rollback_id, move.target_inode)

    def overwrite(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Make ``live`` equal to stored state without a rename, and flush it.

        An equal ``live`` is not written: its disk may be read-only while a failure of another asset is undone. Raises
        StageFailed when ``live`` must not exist but cannot be removed, OSError when ``live`` cannot be written.
        """
        if record.exists and not record.damaged and self._is_equal(record, live):
            live.flush()
        elif not record.exists:
            remove_live(live)
        elif record.damaged:
            restore_raw_copy(record, stored, live)
        else:
            self.overwrite_content(record, stored, live)
        live.flush_folder()

    def _is_equal(self, record: AssetRecord, live: Place) -> bool:
        try:
            return stat.S_IMODE(live.info().st_mode) == record.mode and self.digest(record, live) == record.sha256
        except (OSError, StageFailed):
            return False

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Replace any content of ``live`` by stored content. Raises StageFailed, OSError."""
        raise TypeError(f"assets of kind {self.name} cannot be written in place")


def _copy_raw(place: Place, copy: Place, meter: Meter, gaps: Gaps) -> None:
    """Copy what is at ``place``, whatever it is; raises Unreadable when it cannot be read or has no bytes to copy."""
    try:
        mode = place.info().st_mode
        target = place.read_link() if stat.S_ISLNK(mode) else None
    except OSError as error:
        raise Unreadable(error) from error
    if target is not None:
        place_link(target, copy.path)
    elif stat.S_ISDIR(mode):
        try:
            capture_tree(place, copy, gaps, meter.add)
        except Unreadable:
            copy.remove()
            raise
    else:
        capture_file(place, copy, meter.add, gaps)
