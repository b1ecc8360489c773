"""Everything that is written to disk, as values; docs/formats.md describes the same.

Keys are camelCase on disk. Readers ignore keys they do not know and refuse versions newer than theirs.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "AssetEntry",
    "AssetKind",
    "AssetRecord",
    "AttestationReference",
    "AuditAnchor",
    "Check",
    "HealthAttempt",
    "HealthReport",
    "Inode",
    "JournalStep",
    "Manifest",
    "Phase",
    "PreflightReport",
    "RollbackJournal",
    "RollbackOutcome",
    "RollbackState",
    "SnapshotMetadata",
    "SnapshotReference",
]

FORMAT_VERSION = 1

AssetKind = Literal["sqlite", "file", "directory"]
EntryKind = Literal["file", "directory", "symlink"]


@frozen(kw_only=True)
class AuditAnchor:
    """Where the audit log stood when a record was written; a log cut shorter than this is found out."""

    seq: int
    hash: str


@frozen(kw_only=True)
class Check:
    """The result of one gate. ``duration_ms`` is wall time in milliseconds."""

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
        """Whether a flag kept this gate from running, so that it says nothing either way."""
        return bool(self.diagnostics.get("leftOut"))

    @property
    def blocks(self) -> bool:
        """Whether this result keeps a release from going on."""
        return self.status != "passed" and not self.advisory


@frozen(kw_only=True)
class PreflightReport:
    """All gates of one preflight, in configured order."""

    passed: bool
    checks: list[Check]
    failed_checks: list[str]


@frozen(kw_only=True)
class SnapshotReference:
    """What a manifest says of the snapshot it was published with."""

    snapshot_id: str
    metadata_path: str
    digest: str = ""  # the older tool had none


@frozen(kw_only=True)
class Artifact:
    """A live asset as it was recorded at the release. ``size`` is in bytes, over all files of a folder."""

    id: str
    path: str
    exists: bool
    size: int = 0
    sha256: str | None = None


@frozen(kw_only=True)
class Pressure:
    """How much a service has before it: counts of messages and callbacks; None where it says nothing of them.

    ``queued`` counts what waits and what is being sent. ``rejected_callbacks`` counts since the beginning.
    """

    queued: int | None = None
    failed: int | None = None
    dead_letters: int | None = None
    rejected_callbacks: int | None = None


@frozen(kw_only=True)
class ReliabilityReport:
    """What a reliability endpoint answered. ``over`` names what is over its limit, in a sentence each."""

    status: Literal["ok", "pressure", "unknown", "unreachable"]
    url: str
    detail: str
    http_status: int | None = None
    pressure: Pressure | None = None
    over: list[str] = field(factory=list)


@frozen(kw_only=True)
class Baseline:
    """The service when a release was prepared; what could not be measured is None. Latency is in milliseconds."""

    health: str | None = None
    latency_ms: int | None = None
    pressure: Pressure | None = None


@frozen(kw_only=True)
class Phase:
    """A part of a prepare and when it ran: ``preflight``, ``capture``, ``publish``."""

    name: str
    started_at: str
    completed_at: str


@frozen(kw_only=True)
class AttestationReference:
    """That a statement lies beside a manifest, and by which key it is signed (None: by none)."""

    key_id: str | None = None


@frozen(kw_only=True)
class Manifest:
    """A release: what was checked, what was captured, and whether it may go on.

    What has a default here is missing in the manifests of the older tool, or may be.
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


@frozen(kw_only=True)
class AssetEntry:
    """One name inside a directory asset; ``path`` is relative to it, with ``/`` between parts."""

    path: str
    kind: EntryKind
    mode: int
    size: int = 0
    sha256: str | None = None
    target: str | None = None


@frozen(kw_only=True)
class AssetRecord:
    """One captured asset.

    ``relative_path`` is where it lies below the snapshot's folder. ``sha256`` of a directory is that of its
    canonical entries. ``damaged`` marks remains: what stood in the asset's place and could not be read as one.
    ``left_out`` names the sockets, pipes and devices that a safety snapshot cannot hold. ``plugin`` is the asset kind
    of another package that took and checked the copy; ``plugin_problem`` says why it did not, and a safety snapshot
    holds a plain copy instead.
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
    entries: list[AssetEntry] | None = None
    damaged: bool = False
    left_out: list[str] | None = None
    plugin: str | None = None
    plugin_problem: str | None = None


@frozen(kw_only=True)
class SnapshotMetadata:
    """What makes a folder a snapshot. ``checksum`` covers every other key of this document."""

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
    audit: AuditAnchor | None = None
    checksum: str | None = None

    def asset(self, key: str) -> AssetRecord | None:
        """Return the record of one asset, or None when this snapshot does not know it."""
        return next((asset for asset in self.assets if asset.key == key), None)


@frozen(kw_only=True)
class RollbackState:
    """The last rollback. ``restored`` says whether its snapshot went live, whatever health said after it.

    ``restored_snapshot_id`` is the snapshot that went live last, in this rollback or one before it, and ``lineage``
    says how far releases had come at that moment: while they are no further, nothing was prepared since.
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
    """One request to a health endpoint. ``latency_ms`` is how long it took until the answer, or until none came."""

    at: str
    status: HealthWord
    passed: bool
    latency_ms: int
    http_status: int | None = None
    detail: str = ""


@frozen(kw_only=True)
class HealthReport:
    """What a health endpoint answered in the end. ``degraded`` names the unhealthy parts.

    ``history`` holds the attempts, oldest first; of many only the first and the last.
    """

    passed: bool
    status: HealthWord
    url: str
    detail: str
    http_status: int | None = None
    attempts: int = 0
    degraded: list[str] = field(factory=list)
    duration_ms: int = 0
    history: list[HealthAttempt] = field(factory=list)


@frozen(kw_only=True)
class Inode:
    """A file or folder itself, whatever its name: device and inode number.

    The number is on the disk. The device is what the kernel called it, and may be another one after a reboot.
    """

    device: int
    number: int


@frozen(kw_only=True)
class JournalStep:
    """What is to happen to one asset.

    ``database``: its content is replaced through SQLite. ``place``: the staged inode takes the name, or the name goes
    away when there is none; ``folder`` is the one in which both lie. ``mirrored`` says that the names could not be
    exchanged and the content was written in place instead. ``begun`` says that the content of a database may have been
    replaced, ``done`` that the step has reached the journal's direction.
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


@frozen(kw_only=True)
class RollbackJournal:
    """Present while a rollback is being swapped in: the next command that finds it finishes what it says."""

    journal_version: int
    rollback_id: str
    snapshot_id: str
    safety_snapshot_id: str
    direction: Literal["forward", "back"]
    started_at: str
    lineage: str | None
    steps: list[JournalStep]


@frozen(kw_only=True)
class RollbackOutcome:
    """What a rollback did, as ``--json`` prints it."""

    status: Literal["restored", "noop", "failed"]
    snapshot_id: str | None
    started_at: str
    completed_at: str
    restored_assets: list[str] = field(factory=list)
    skipped_assets: list[str] = field(factory=list)
    removed_assets: list[str] = field(factory=list)
    damaged_assets: list[str] = field(factory=list)  # before; of these the safety snapshot holds only remains
    safety_snapshot_id: str | None = None
    health_check: HealthReport | None = None
    restart_command: str | None = None
    diagnostics: list[str] = field(factory=list)
