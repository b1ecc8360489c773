"""The protocol of an asset kind: what invoke.yaml says of it, and how its state is captured, compared and restored.

A kind is one file with an options class and a subclass of ``AssetKind``, and a line in ``kinds.py``. Capture, plan,
swap, recovery, drill and verification ask the kind; nothing outside this package asks for its name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from attrs import evolve, field, frozen

from release_tasks.assets.files import (
    capture_file,
    capture_tree,
    entries_digest,
    place_file,
    place_link,
    place_tree,
    scan_file,
    scan_tree,
)
from release_tasks.assets.overwrite import remove_live, restore_raw_copy
from release_tasks.assets.placing import discard_staged, inode_of, rename_into_place, staged_path
from release_tasks.core.canonical import excerpt
from release_tasks.core.durable import fsync_directory, fsync_tree, make_private_directory, remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.ids import is_valid_id
from release_tasks.core.options import option
from release_tasks.core.records import AssetRecord, Inode, JournalStep, SnapshotMetadata

__all__ = [
    "AssetConfig",
    "AssetFinding",
    "AssetKind",
    "Damaged",
    "Examination",
    "Inspection",
    "Listing",
    "Move",
    "Soundness",
    "State",
    "is_folder",
    "stored_path",
]

State = Literal["old", "new", "partial"]

_ALL_BITS = 0o7777


class Damaged(StageFailed):
    """What stands in the place of an asset cannot be read as one of its kind."""


@frozen(kw_only=True)
class AssetConfig:
    """A piece of state that is captured and restored; exactly one kind."""

    kind: AssetKind
    options: Any  # of the class ``kind.options``
    required: bool = option("when missing, the release is blocked", True)

    @property
    def path(self) -> Path:
        """Where the asset lives, absolute."""
        path: Path = getattr(self.options, self.kind.path_option)
        return path

    @property
    def plugin(self) -> str | None:
        """The name of the installed package's asset kind that captures it, if one does."""
        return getattr(self.options, "python", None)

    def at(self, path: Path) -> AssetConfig:
        """Return the same asset in another place."""
        return evolve(self, options=evolve(self.options, **{self.kind.path_option: path}))

    def takes(self, record: AssetRecord) -> bool:
        """Return whether a captured asset can be restored to this one."""
        return record.kind in self.kind.restores


@frozen(kw_only=True)
class AssetFinding:
    """One asset that is not what its record says. ``found`` is None when it is not there at all."""

    key: str
    what: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        text = f"asset {excerpt(self.key)}: {excerpt(self.what, 1000)}"
        if self.expected is None:
            return text
        return f"{text} (recorded {excerpt(self.expected)}, found {excerpt(self.found or 'nothing')})"


@frozen(kw_only=True)
class Soundness:
    """Whether live state can be used as it is; ``issue`` says what could not be examined."""

    is_sound: bool
    issue: str | None = None


@frozen(kw_only=True)
class Examination:
    """What a check beyond the bytes found in a copy. ``unchecked`` says why it could not run, None when it could."""

    problems: list[str]
    unchecked: str | None = None


@frozen(kw_only=True)
class Inspection:
    """What a kind knows of the content of a copy: ``problem`` is empty for a sound one, ``rows`` counts its tables."""

    problem: str = ""
    rows: dict[str, int | None] = field(factory=dict)


@frozen
class Listing:
    """One side of a comparison: what stands under each name. ``is_shown`` says that the values may be printed."""

    name: str
    values: dict[str, str]
    is_shown: bool = False


@frozen(kw_only=True)
class Move:
    """One journalled step that is carried out: forward to ``source``, the target, or back to the safety snapshot.

    ``folder`` is where ``source`` lies. ``note`` writes a changed step into the journal, durably, and returns it;
    ``amend`` keeps it in this process alone.
    """

    asset: AssetConfig
    step: JournalStep
    rollback_id: str
    is_forward: bool
    source: SnapshotMetadata
    folder: Path
    note: Callable[[JournalStep], JournalStep]
    amend: Callable[[JournalStep], None]
    emit: Emit = ignore

    @property
    def live(self) -> Path:
        """The name that the asset has."""
        return self.asset.path

    @property
    def staged(self) -> Path:
        """Where the staged copy lies, or what it was exchanged for."""
        return staged_path(self.live, self.rollback_id)

    @property
    def wanted(self) -> Inode | None:
        """The file or folder that is to have the name, None when none is to have it."""
        return self.step.new if self.is_forward else self.step.old

    @property
    def record(self) -> AssetRecord:
        """The state that is to become live; raises StageFailed where ``source`` has none."""
        record = self.source.asset(self.step.key)
        if record is None:
            raise StageFailed(f"Snapshot {self.source.snapshot_id} has no asset {self.step.key!r}.")
        return record

    @property
    def stored(self) -> Path:
        """Where that state lies in the snapshot."""
        return stored_path(self.folder, self.record)


class AssetKind:
    """A kind of state. The defaults are those of state that is copied and exchanged by name: files and folders.

    ``name`` is its key in invoke.yaml and ``options`` the attrs class of what stands beside that. ``restores`` names
    the kinds of record that can be restored to such an asset, and ``records_as`` the one that stands for an absent one.
    """

    name: ClassVar[str]
    options: ClassVar[type]
    restores: ClassVar[frozenset[str]]
    records_as: ClassVar[Literal["sqlite", "file", "directory"]]
    soundness_cost: ClassVar[int] = 0  # kinds of less cost are asked first whether they are in place
    allows_plugins: ClassVar[bool] = True  # whether a plugin may have taken the copy of such a record

    @property
    def path_option(self) -> str:
        """The option that holds the path."""
        return self.name

    def asset(self, path: Path, **common: Any) -> AssetConfig:
        """Return an asset of this kind at ``path``."""
        return AssetConfig(kind=self, options=self.options(**{self.path_option: path}), **common)

    def missing(self, key: str, asset: AssetConfig) -> list[str]:
        """Return what keeps the asset from being captured that the file system does not show, a sentence each."""
        return []

    # Capture

    def size(self, asset: AssetConfig) -> int:
        """Return how many bytes a capture will read, as far as that can be seen. Raises OSError."""
        return os.lstat(asset.path).st_size

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the live state to ``copy``, which does not exist yet, and return ``record`` completed.

        With ``allow_damaged``, for a safety snapshot, nothing is refused that can be kept in part. Raises Damaged for
        what is no asset of this kind, StageFailed or OSError when it cannot be captured.
        """
        raise TypeError(f"assets of kind {self.name} have no capture")

    def raw_paths(self, asset: AssetConfig) -> list[Path]:
        """Return the names whose bytes are kept when the asset is damaged."""
        return [asset.path]

    def capture_raw(self, asset: AssetConfig, record: AssetRecord, copy: Path, emit: Emit = ignore) -> AssetRecord:
        """Keep what stands in the place of an asset and cannot be read as one, byte for byte."""
        meter = Meter(emit, "capture", record.key, 0)
        remove_tree(copy)
        os.mkdir(copy, 0o700)
        for path in self.raw_paths(asset):
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(mode):
                place_link(os.readlink(path), copy / path.name)
            elif stat.S_ISDIR(mode):
                capture_tree(path, copy / path.name, left_out=[], count=meter.add)
            elif stat.S_ISREG(mode):  # a socket or a device has no bytes to keep
                capture_file(path, copy / path.name, meter.add)
        meter.finish()
        entries = scan_tree(copy)
        size = sum(entry.size for entry in entries)
        return evolve(record, exists=True, damaged=True, size=size, sha256=entries_digest(entries), entries=entries)

    # Verification and comparison

    def verify(self, record: AssetRecord, stored: Path, meter: Meter, *, thorough: bool = False) -> list[AssetFinding]:
        """Digest a stored copy again and compare it with its record; ``thorough`` checks its content too.

        Raises StageFailed or OSError for a copy that cannot be read.
        """
        mode = os.lstat(stored).st_mode
        is_tree = is_folder(record)
        if is_tree != stat.S_ISDIR(mode) or not (is_tree or stat.S_ISREG(mode)):
            raise StageFailed(f"should be a {'folder' if is_tree else 'regular file'} and is none")
        if is_tree:
            findings = _verify_tree(record, stored, meter)
        else:
            entry = scan_file(stored, meter.add)
            meter.finish()
            findings = []
            if entry.sha256 != record.sha256:
                findings = [
                    AssetFinding(key=record.key, what="was altered", expected=record.sha256, found=entry.sha256)
                ]
        wrong = self.invalid_value(record)
        if not is_tree and entry.size != record.size:
            wrong = f"a size of {record.size} for {entry.size} bytes"
        if findings or not wrong:
            return findings
        return [AssetFinding(key=record.key, what=f"its record was altered: it has {wrong}")]

    def invalid_value(self, record: AssetRecord) -> str | None:
        """Say what no capture writes: a checksum can be forged, and the modes of a record steer ``chmod``."""
        entries = record.entries or []
        if not all(mode is not None and 0 <= mode <= _ALL_BITS for mode in (record.mode, *(e.mode for e in entries))):
            return "a mode that is none"
        if record.content_digest is not None and not self.may_have_content_digest(record):
            return "a content digest that is not that of its bytes"
        if is_folder(record) and record.size != sum(entry.size for entry in entries):
            return "a size that is not the sum of its entries"
        has_none = record.damaged or record.plugin_problem is not None or not self.allows_plugins
        if record.plugin is not None and has_none:
            return "a plugin that cannot have taken it"
        if len({entry.path for entry in entries}) != len(entries):
            return "the same entry twice"
        return None

    def may_have_content_digest(self, record: AssetRecord) -> bool:
        """Return whether the content digest of a record is one that a capture writes."""
        return False

    def check_legacy(self, record: AssetRecord, stored: Path) -> list[AssetFinding]:
        """Return what is wrong with a copy of the older tool, which has no digests."""
        return []

    def examine(self, record: AssetRecord, asset: AssetConfig | None, copy: Path) -> Examination | None:
        """Check a copy beyond its bytes, with the options of ``asset`` where it is configured; None: not possible."""
        return None

    def inspect(self, record: AssetRecord, copy: Path) -> Inspection | None:
        """Read the content of a copy to its last page; None for a kind whose content has no structure of its own."""
        return None

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return what two copies are compared by, name for name; nothing for a kind that has no names in it."""
        return []

    def digest(self, record: AssetRecord, path: Path) -> str | None:
        """Return the digest of state that nothing else uses, to be compared with that of ``record``."""
        return scan_file(path).sha256

    def side_files(self, path: Path) -> list[Path]:
        """Return the names beside ``path`` that belong to the service and must not outlive a restore."""
        return []

    def compare(self, record: AssetRecord, live: AssetRecord) -> str:
        """Say how the live state differs from a captured one; an empty text when it does not."""
        is_same = (live.content_digest or live.sha256) == (record.content_digest or record.sha256)
        if is_same and live.mode == record.mode:
            return ""
        if is_same:
            return f"mode {live.mode:o} instead of {record.mode:o}"
        return f"content differs ({live.size} bytes live, {record.size} in the snapshot)"

    def describe(self, record: AssetRecord) -> str:
        """Return what people read of a captured asset."""
        return record.kind if record.plugin is None else f"{record.kind}, captured by {record.plugin}"

    def is_sound(self, asset: AssetConfig, record: AssetRecord, scratch: Path) -> Soundness:
        """Return whether a restored asset is still in place, so that a repeated rollback leaves it alone.

        Files and folders must be as recorded, byte for byte. ``scratch`` does not exist and may be made.
        """
        if record.kind not in self.restores:
            return Soundness(is_sound=False)
        try:
            mode = os.lstat(asset.path).st_mode
        except FileNotFoundError:
            return Soundness(is_sound=not record.exists)
        is_of_form = record.exists and stat.S_ISDIR(mode) == is_folder(record)
        return Soundness(is_sound=is_of_form and self._is_equal(record, asset.path))

    # A rollback, in the order of its steps

    def scan(self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore) -> AssetRecord:
        """Read the live state before any lock is held: keep in ``copy`` what is needed to come back to it."""
        return self.capture(asset, record, copy, emit=emit, allow_damaged=True)

    def stage(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, rollback_id: str, *, is_usable: bool, emit: Emit
    ) -> JournalStep:
        """Lay the new state beside the asset, complete and flushed, and return the step that puts it in place.

        ``is_usable`` says that the asset is live and can be read. Nothing live is touched. Raises StageFailed, OSError.
        """
        new = None
        if record.exists:
            staged = staged_path(asset.path, rollback_id)
            make_private_directory(asset.path.parent)
            remove_tree(staged)
            meter = Meter(emit, "stage", record.key, record.size)
            self.place(record, stored, staged, meter)
            meter.finish()
            fsync_tree(staged)
            fsync_directory(staged.parent)
            new = inode_of(staged)
        return JournalStep(
            key=record.key,
            path=str(asset.path),
            action="place",
            new=new,
            old=inode_of(asset.path),
            folder=inode_of(asset.path.parent),
        )

    def place(self, record: AssetRecord, stored: Path, goal: Path, meter: Meter) -> None:
        """Copy stored state to ``goal`` and check its bytes again. Raises StageFailed where they differ, OSError."""
        assert record.mode is not None
        if is_folder(record):
            place_tree(stored, goal, record.entries or [], record.mode, meter.add)
        elif place_file(stored, goal, record.mode, meter.add) != record.sha256:
            raise StageFailed(f"{stored} changed while it was being staged; nothing was changed.")

    @contextlib.contextmanager
    def lock(self, asset: AssetConfig) -> Iterator[None]:
        """Keep the service from changing the asset while the block runs. Files and folders cannot be locked."""
        yield

    def seal_safety(self, asset: AssetConfig, record: AssetRecord, copy: Path) -> AssetRecord:
        """Add to a scanned copy what changed until the lock was held; return its record as it is then."""
        return record

    def state_of(self, step: JournalStep) -> State:
        """Say what a step has done so far: nothing, all of it, or what has to be carried out once more."""
        return "new" if step.done else "partial"

    def commit(self, move: Move) -> None:
        """Put the new state in place; it may be repeated. Raises StageFailed, OSError; ``abort`` undoes it."""
        self._carry_out(move)

    def abort(self, move: Move) -> None:
        """Put the state before back in place, whatever ``commit`` had reached; it may be repeated."""
        self._carry_out(move)

    def finish(self, asset: AssetConfig) -> list[Path]:
        """Remove what the rollback left beside the asset, once no journal needs it; returns what was removed."""
        return discard_staged(asset.path)

    def _carry_out(self, move: Move) -> None:
        if move.step.mirrored or not self.exchange(move):
            # Written down first: afterwards the inode no longer tells old from new.
            move.note(evolve(move.step, mirrored=True))
            self.overwrite(move.record, move.stored, move.live)

    def exchange(self, move: Move) -> bool:
        """Give the name to the file or folder that is to have it; False where no rename can do that."""
        return rename_into_place(move.live, move.staged, move.wanted)

    def overwrite(self, record: AssetRecord, stored: Path, live: Path) -> None:
        """Make ``live`` equal to stored state without renaming it, and flush it.

        What is equal already is not written: it may lie on a disk that takes no writes, and be undone for the sake of
        another asset. Raises StageFailed when ``live`` must not exist but cannot be removed, OSError when it cannot be
        written.
        """
        if record.exists and not record.damaged and self._is_equal(record, live):
            fsync_tree(live)
        elif not record.exists:
            remove_live(live)
        elif record.damaged:
            restore_raw_copy(stored, live)
        else:
            self.overwrite_content(record, stored, live)
        if live.parent.is_dir():
            fsync_directory(live.parent)

    def _is_equal(self, record: AssetRecord, live: Path) -> bool:
        try:
            return stat.S_IMODE(os.lstat(live).st_mode) == record.mode and self.digest(record, live) == record.sha256
        except (OSError, StageFailed):
            return False

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Path) -> None:
        """Write stored content into ``live``, whatever that holds. Raises StageFailed, OSError."""
        raise TypeError(f"assets of kind {self.name} cannot be written in place")


def is_folder(record: AssetRecord) -> bool:
    """Return whether a captured asset lies in its snapshot as a folder; raw_paths of a damaged one do, too."""
    return record.kind == "directory" or record.damaged


def stored_path(folder: Path, record: AssetRecord) -> Path:
    """Return where an asset lies in the snapshot ``folder``; raises StageFailed for a record that points elsewhere."""
    parts = record.relative_path.split("/")
    expected = len(parts) == 3 and parts[0] == "assets" and parts[1] == record.key and is_valid_id(record.key)
    if not expected or not _is_file_name(parts[2]):
        key, path = excerpt(record.key), excerpt(record.relative_path)
        raise StageFailed(f"asset {key!r} has the path {path!r}, which is not its place.")
    for parent in (folder / "assets", folder / "assets" / record.key):
        if parent.is_symlink():
            raise StageFailed(f"{parent} is a symbolic link.")
    return folder / record.relative_path


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # JSON can spell surrogates that stand for no byte
        return False
    return name not in ("", ".", "..") and "\x00" not in name


def _verify_tree(record: AssetRecord, stored: Path, meter: Meter) -> list[AssetFinding]:
    recorded = {entry.path: entry for entry in record.entries or []}
    listed = entries_digest(list(record.entries or []))
    if listed != record.sha256:
        what = "its list of entries was altered"
        return [AssetFinding(key=record.key, what=what, expected=record.sha256, found=listed)]
    present = {entry.path: entry for entry in scan_tree(stored, meter.add)}
    meter.finish()
    findings = []
    for path in sorted(recorded.keys() | present.keys()):
        before, now = recorded.get(path), present.get(path)
        if before is None:
            what, expected, found = "was added", "nothing", path
        elif now is None:
            what, expected, found = "is missing", before.sha256 or before.kind, None
        # Modes of the stored copies are 0600/0700; the recorded ones are covered by the digest of the entries.
        elif (before.kind, before.sha256, before.size, before.target) != (now.kind, now.sha256, now.size, now.target):
            what, expected = "was altered", before.sha256 or before.target or before.kind
            found = now.sha256 or now.target or now.kind
        else:
            continue
        findings.append(AssetFinding(key=record.key, what=f"{excerpt(path)} {what}", expected=expected, found=found))
    return findings
