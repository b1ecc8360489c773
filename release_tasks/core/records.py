"""The records that are written to disk; docs/formats.md describes the files.

Keys are camelCase on disk. A reader ignores unknown keys and refuses a version newer than its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, fields, frozen

__all__ = [
    "FORMAT_VERSION",
    "FORMAT_WITHOUT_DELTAS",
    "SEQUENCE_LIMIT",
    "Artifact",
    "AssetEntry",
    "AssetKind",
    "AssetRecord",
    "AttestationReference",
    "AuditAnchor",
    "Check",
    "DatabaseRestore",
    "HealthAttempt",
    "HealthForm",
    "HealthReport",
    "Inode",
    "JournalStep",
    "Manifest",
    "ParentFolder",
    "Phase",
    "PreflightReport",
    "PreparedRelease",
    "RollbackJournal",
    "RollbackOutcome",
    "RollbackState",
    "SnapshotMetadata",
    "SnapshotReference",
    "StoredDelta",
    "format_of",
]

SEQUENCE_LIMIT = 1 << 53  # other programs read the numbers of JSON as floats, which are exact up to here (RFC 8259, 6)
FORMAT_VERSION = 3
FORMAT_WITHOUT_DELTAS = 2

AssetKind = Literal["sqlite", "file", "directory"]
EntryKind = Literal["file", "directory", "symlink"]


@frozen(kw_only=True)
class AuditAnchor:
    """The last audit event when a record was written. A log without this event was truncated or altered."""

    seq: int
    hash: str


@frozen(kw_only=True)
class Check:
    """The result of one gate. ``duration_ms`` is measured with a monotonic clock."""

    id: str
    subsystem: str
    status: Literal["passed", "failed", "skipped"]
    detail: str
    command: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int = 0
    advisory: bool = False
    diagnostics: dict[str, Any] = field(factory=dict)

    @property
    def is_left_out(self) -> bool:
        """Whether a flag excluded this gate, so that it did not run and has no result."""
        return bool(self.diagnostics.get("leftOut"))

    @property
    def is_excused(self) -> bool:
        """Whether this gate did not run because it asks a service that is not deployed yet."""
        return bool(self.diagnostics.get("firstDeployment"))

    @property
    def blocks(self) -> bool:
        """Whether this result blocks the release."""
        return self.status != "passed" and not self.advisory and not self.is_excused


@frozen(kw_only=True)
class PreflightReport:
    """All gates of one preflight, in configured order."""

    passed: bool
    checks: list[Check]
    failed_checks: list[str]
    duration_ms: int | None = None  # None in manifests of earlier versions


@frozen(kw_only=True)
class SnapshotReference:
    """A manifest's reference to the snapshot that was published with it."""

    snapshot_id: str
    metadata_path: str
    digest: str = ""  # empty in manifests of the older tool


@frozen(kw_only=True)
class Artifact:
    """A live asset at the time of the release. ``size`` is in bytes; for a folder, the sum over all files."""

    id: str
    path: str
    exists: bool
    size: int = 0
    sha256: str | None = None


@frozen(kw_only=True)
class Pressure:
    """The load of a service: counts of messages and callbacks. A count that the service does not report is None.

    ``queued`` counts messages that wait or are being sent. ``rejected_callbacks`` is the total since the service
    started to count; a restore can lower it.
    """

    queued: int | None = None
    failed: int | None = None
    dead_letters: int | None = None
    rejected_callbacks: int | None = None


@frozen(kw_only=True)
class ReliabilityReport:
    """The answer of a reliability endpoint. ``over`` has one message for each count that is over its limit."""

    status: Literal["ok", "pressure", "unknown", "unreachable"]
    url: str
    detail: str
    http_status: int | None = None
    pressure: Pressure | None = None
    over: list[str] = field(factory=list)


@frozen(kw_only=True)
class HealthForm:
    """The form of a health answer whose meaning is unknown.

    ``body`` is the kind of its body, ``names`` the keys of a JSON object, ``words`` the values that may be a status.
    """

    http_status: int
    media_type: str
    body: str
    names: list[str] = field(factory=list)
    words: list[str] = field(factory=list)


@frozen(kw_only=True)
class Baseline:
    """Measurements of the service when a release was prepared. A value that could not be measured is None.

    ``form`` is the form of the health answer when ``health`` is ``unknown``.
    """

    health: str | None = None
    latency_ms: int | None = None
    pressure: Pressure | None = None
    form: HealthForm | None = None


@frozen(kw_only=True)
class Phase:
    """A phase of release.prepare (``preflight``, ``capture``, ``publish``) with its start and end.

    ``duration_ms`` is measured, because the clock may be set between start and end; None in older manifests.
    """

    name: str
    started_at: str
    completed_at: str
    duration_ms: int | None = None


@frozen(kw_only=True)
class AttestationReference:
    """A manifest's reference to its statement. ``key_id`` is the signing key, None for an unsigned statement."""

    key_id: str | None = None


@frozen(kw_only=True)
class Manifest:
    """A release: its checks, its captured assets and whether it is ready or blocked.

    Fields with a default may be missing in manifests of the older tool. ``first_deployment``: there was no service and
    no earlier release, and required assets may be absent.
    """

    manifest_version: int
    release_id: str
    generated_at: str
    sequence: int = 0
    app_name: str = ""
    app_version: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    status: Literal["ready", "blocked"]
    preflight: PreflightReport
    snapshot: SnapshotReference | None = None
    artifacts: list[Artifact]
    diagnostics: list[str]
    manifest_path: str
    audit: AuditAnchor | None = None
    baseline: Baseline | None = None
    phases: list[Phase] = field(factory=list)
    attestation: AttestationReference | None = None
    first_deployment: bool = False


@frozen(kw_only=True)
class PreparedRelease(Manifest):
    """The answer of a prepare: the manifest, and the snapshots that retention removed after it was written."""

    removed_snapshots: list[str] = field(factory=list)

    @classmethod
    def of(cls, manifest: Manifest, removed_snapshots: list[str], notes: list[str]) -> PreparedRelease:
        """Return ``manifest`` with the ids of the removed snapshots, and ``notes`` after its diagnostics."""
        values = {each.name: getattr(manifest, each.name) for each in fields(Manifest)}
        values["diagnostics"] = manifest.diagnostics + notes
        return cls(**values, removed_snapshots=removed_snapshots)


@frozen(kw_only=True)
class AssetEntry:
    """One file, folder or link in a directory asset. ``path`` is relative to the asset, with ``/`` between parts."""

    path: str
    kind: EntryKind
    mode: int
    size: int = 0
    sha256: str | None = None
    target: str | None = None


@frozen(kw_only=True)
class StoredDelta:
    """How a database is stored that differs little from a base, which is a plain database file.

    The base is ``bases/<base_sha256>.db`` in the pipeline folder; it was captured in the snapshot ``base_snapshot_id``.
    ``sha256`` and ``size`` (in bytes) are those of the delta file.
    """

    base_sha256: str
    base_snapshot_id: str
    sha256: str
    size: int


@frozen(kw_only=True)
class AssetRecord:
    """One captured asset.

    ``relative_path`` is the path of the copy below the snapshot's folder. ``sha256`` of a directory is the digest of
    its canonical ``entries``, sorted by path: a list in format 1 and during the capture, else
    core.entries.StoredEntries. ``damaged`` marks a raw copy: the live state could not be read as an asset of its kind.
    ``left_out`` names what a safety snapshot could not contain: at most 50 names; ``left_out_count`` is the number of
    all. ``unstable`` names files that changed while they were read, and were copied as they were. ``unchecked`` names
    the parts of a database that SQLite cannot check without the functions and modules of its service. ``plugin`` is the
    plugin's asset kind that captured and checked the copy. ``plugin_problem`` is the reason why the plugin failed; the
    safety snapshot then contains an ordinary copy. ``delta`` says that ``relative_path`` is a delta, not the database:
    ``size``, ``sha256`` and ``content_digest`` stay those of the whole database. ``pending`` marks a delta that was
    published while the database was locked: its ``sha256`` and ``content_digest`` are computed later, and None.
    """

    key: str
    relative_path: str
    kind: AssetKind
    exists: bool
    size: int = 0
    sha256: str | None = None
    content_digest: str | None = None
    mode: int | None = None
    journal_mode: str | None = None
    entries: Sequence[AssetEntry] | None = None
    damaged: bool = False
    left_out: list[str] | None = None
    left_out_count: int | None = None
    unstable: list[str] | None = None
    unchecked: list[str] | None = None
    plugin: str | None = None
    plugin_problem: str | None = None
    delta: StoredDelta | None = None
    pending: bool = False


@frozen(kw_only=True)
class ParentFolder:
    """A folder above an asset. ``path`` is relative to the project; outside the project it is absolute."""

    path: str
    mode: int
    uid: int
    gid: int


@frozen(kw_only=True)
class SnapshotMetadata:
    """The metadata.json of a snapshot. ``checksum`` covers every other key of this document.

    ``parents`` are the folders above the assets, outermost first; None in format 1.
    """

    format_version: int
    snapshot_id: str
    release_id: str | None
    kind: Literal["release", "safety"]
    created_at: str
    sequence: int
    retention_limit: int
    digest: str
    assets: list[AssetRecord]
    metadata_path: str
    parents: list[ParentFolder] | None = None
    audit: AuditAnchor | None = None
    checksum: str | None = None

    def asset(self, key: str) -> AssetRecord | None:
        """Return the record of one asset, or None when this snapshot has no such asset."""
        return next((asset for asset in self.assets if asset.key == key), None)


def format_of(assets: Sequence[AssetRecord]) -> int:
    """Return the oldest format that describes these records: earlier versions read a snapshot without deltas."""
    return FORMAT_VERSION if any(asset.delta or asset.pending for asset in assets) else FORMAT_WITHOUT_DELTAS


@frozen(kw_only=True)
class RollbackState:
    """The last rollback. ``restored`` is True when its snapshot went live, even if the health check failed afterwards.

    ``restored_snapshot_id`` is the snapshot that went live last, in this rollback or an earlier one. ``lineage`` has
    the sequences of the latest release snapshot and of the latest ready manifest at that time. While both are
    unchanged, no release was prepared since.
    """

    snapshot_id: str
    status: Literal["in_progress", "success", "failed"]
    updated_at: str
    detail: str
    restored: bool = False
    restored_snapshot_id: str | None = None
    lineage: str | None = None
    rollback_id: str | None = None
    safety_snapshot_id: str | None = None
    audit: AuditAnchor | None = None


HealthWord = Literal["ok", "degraded", "failed", "unknown", "unreachable"]


@frozen(kw_only=True)
class HealthAttempt:
    """One request about health. ``latency_ms`` is the time until the first answer, or until all requests failed."""

    at: str
    status: HealthWord
    passed: bool
    latency_ms: int
    http_status: int | None = None
    detail: str = ""


@frozen(kw_only=True)
class HealthReport:
    """The final answer of a health endpoint. ``degraded`` names the unhealthy parts.

    ``stated`` is what the answer says of the whole service; ``status`` counts its parts too. It is None when only the
    parts have a status, and without an answer.
    ``history`` contains the attempts, oldest first. When there are many, it contains only the first and last ones.
    When gates are asked too, the report is about the worst answer; ``gate`` is the gate that got it.
    """

    passed: bool
    status: HealthWord
    url: str
    detail: str
    http_status: int | None = None
    attempts: int = 0
    degraded: list[str] = field(factory=list)
    stated: HealthWord | None = None
    gate: str | None = None
    duration_ms: int = 0
    history: list[HealthAttempt] = field(factory=list)


@frozen(kw_only=True)
class Inode:
    """The identity of a file or folder, independent of its name: device number and inode number.

    The inode number is stored on the disk. The kernel assigns the device number, and may change it at a reboot.
    """

    device: int
    number: int


@frozen(kw_only=True)
class JournalStep:
    """The step of a rollback for one asset.

    Action ``database``: SQLite replaces the content. Action ``place``: the staged inode gets the asset's name, or the
    name is removed when nothing is staged; ``folder`` is the folder of both names. ``mirrored``: the names could not be
    exchanged, and the content was overwritten in place. ``begun``: the content of the database may have been replaced.
    ``done``: the step is finished in the journal's direction. ``exchange_only``: the safety copy of the asset is
    incomplete or missing, so its old state must stay whole until the end, and is not overwritten in place. ``cookie``
    and ``new_cookie`` are the schema cookies of a database before and after its restore by page: they show whether the
    restore was committed.
    """

    key: str
    path: str
    action: Literal["database", "place"]
    new: Inode | None = None
    old: Inode | None = None
    folder: Inode | None = None
    begun: bool = False
    mirrored: bool = False
    done: bool = False
    exchange_only: bool = False
    cookie: int | None = None
    new_cookie: int | None = None


@frozen(kw_only=True)
class RollbackJournal:
    """The journal of a running swap. It exists only during the swap; the next command finishes a swap that it finds.

    ``safety_snapshot_id`` is None for a rollback without a safety snapshot. ``created_parents`` are the paths of the
    folders above assets that the rollback created; an undo removes them.
    """

    journal_version: int
    rollback_id: str
    snapshot_id: str
    safety_snapshot_id: str | None
    direction: Literal["forward", "back"]
    started_at: str
    lineage: str | None
    steps: list[JournalStep]
    created_parents: list[str] = field(factory=list)


@frozen(kw_only=True)
class DatabaseRestore:
    """How a rollback restored a database.

    ``method`` is ``page`` when only the pages that differ were written, else ``whole``, and ``reason`` says why.
    ``exact``: the safety copy has every commit up to the instant of the restore. ``pages_changed`` counts the pages
    that were written or cut off, ``lock_ms`` is the time in which other processes could not write, and ``scan_ms`` the
    time of the comparison before it, in milliseconds.
    """

    method: Literal["page", "whole"]
    exact: bool
    pages_changed: int | None = None
    lock_ms: int | None = None
    scan_ms: int | None = None
    reason: str | None = None


@frozen(kw_only=True)
class RollbackOutcome:
    """The result of a rollback, as ``--json`` prints it.

    ``databases`` says how each restored database was restored. ``removed_rows`` has the number of rows of databases
    that were removed, by asset and table.
    """

    status: Literal["restored", "noop", "failed"]
    snapshot_id: str | None
    started_at: str
    completed_at: str
    restored_assets: list[str] = field(factory=list)
    skipped_assets: list[str] = field(factory=list)
    removed_assets: list[str] = field(factory=list)
    databases: dict[str, DatabaseRestore] = field(factory=dict)
    removed_rows: dict[str, dict[str, int]] = field(factory=dict)
    damaged_assets: list[str] = field(factory=list)  # before the rollback; the safety snapshot has raw copies of them
    safety_snapshot_id: str | None = None
    health_check: HealthReport | None = None
    stop_command: str | None = None
    restart_command: str | None = None
    diagnostics: list[str] = field(factory=list)
    removed_snapshots: list[str] = field(factory=list)  # by retention, after the rollback
