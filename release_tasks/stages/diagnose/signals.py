"""The signals of a service and its pipeline: health, manifests, snapshots, logs, disks, and all that is unreadable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, evolve, field, frozen

from release_tasks.archive.capacity import Space, capture_needs, restore_needs, spaces
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance, RecordFinding, with_records
from release_tasks.archive.restore_tests import RestoreTest, RestoreTests, read_restore_tests
from release_tasks.archive.verdicts import Verdicts, read_verdicts
from release_tasks.archive.verify import SnapshotVerdict, verify_all
from release_tasks.config.schema import ReleaseConfig, Settings
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.errors import StageError, describe_error
from release_tasks.core.events import Emit, StepBegan, ignore
from release_tasks.core.lock import Holder, current_holder
from release_tasks.core.records import (
    Baseline,
    Check,
    HealthReport,
    Manifest,
    ReliabilityReport,
    RollbackState,
    SnapshotMetadata,
)
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.service.reliability import fetch_reliability
from release_tasks.service.request import require_requests
from release_tasks.service.sampling import HealthRate, rate_of, sample_health
from release_tasks.stages.preflight.missing import Missing, find_missing, is_configuration
from release_tasks.stages.rollback.in_place import LastRestore, find_last_restore

__all__ = ["Signals", "read_signals"]

T = TypeVar("T")


@frozen(kw_only=True)
class LastRollback:
    """The last attempted rollback in the audit log, unless a release was prepared after it."""

    status: str
    snapshot_id: str | None
    detail: str
    had_no_effect: bool  # failed before it changed anything live, or was undone


@define(kw_only=True)
class Signals:
    """The input of the diagnosis. A field is None or empty when there is no such thing, or when it is in ``unread``.

    ``ready`` is the latest ready release, ``latest`` the latest release of any status. ``snapshot`` is the latest
    release snapshot, ``verdict`` the result of its verification, ``restore_test`` its latest drill. ``last_restore`` is
    the comparison with the snapshot of the last rollback, unless a release was prepared since. ``refused`` has the
    snapshots whose records disagree, with the reason. ``unread`` contains the name of each signal that could not be
    read, and the reason.
    """

    settings: Settings
    health: HealthReport | None = None
    reliability: ReliabilityReport | None = None
    latest: Manifest | None = None
    ready: Manifest | None = None
    snapshot: SnapshotMetadata | None = None
    verdict: SnapshotVerdict | None = None
    restore_test: RestoreTest | None = None
    state: RollbackState | None = None
    attempt: LastRollback | None = None
    last_restore: LastRestore | None = None
    has_journal: bool = False
    is_interrupted: bool = False
    holder: Holder | None = None
    verdicts: Verdicts = field(factory=Verdicts)
    audit: AuditVerdict | None = None
    pairing_audit: AuditVerdict | None = None
    pending: dict[str, int] = field(factory=dict)
    refused: dict[str, str] = field(factory=dict)
    disks: list[Space] = field(factory=list)
    missing: list[Missing] = field(factory=list)
    unread: list[tuple[str, str]] = field(factory=list)

    @property
    def newest(self) -> Manifest | None:
        """The former name of ``latest``."""
        return self.latest

    @property
    def proof(self) -> RestoreTest | None:
        """The former name of ``restore_test``."""
        return self.restore_test

    @property
    def baseline(self) -> Baseline | None:
        """What was measured when the latest ready release was prepared."""
        return self.ready.baseline if self.ready is not None else None

    @property
    def health_rate(self) -> HealthRate | None:
        """How many samples of the health passed; None when health was not asked."""
        return rate_of(self.health) if self.health is not None else None

    @property
    def is_before_first(self) -> bool:
        """Whether the state before the first deployment is restored: then there is no service."""
        last = self.last_restore
        return self.is_restored and last is not None and last.is_before_first

    @property
    def is_restored(self) -> bool:
        """Whether the snapshot of the last rollback is still live, and no release was prepared since."""
        return self.last_restore is not None and self.last_restore.is_in_place

    @property
    def better(self) -> SnapshotMetadata | None:
        """The snapshot of the last known good state, when the state in the latest one was never judged."""
        restored = self.state.restored_snapshot_id if self.state is not None else None
        good, latest = self.verdicts.good, self.snapshot
        if good is None or latest is None or not self.verdicts.is_unjudged(latest.snapshot_id):
            return None
        return None if self.is_restored and restored == good.snapshot_id else good

    @property
    def blocking(self) -> list[Check]:
        """The gates that block the latest release; empty when it is ready."""
        if self.latest is None or self.latest.status == "ready":
            return []
        checks = self.latest.preflight.checks
        return [each for each in checks if each.blocks and each.status == "failed" and not is_configuration(each)]


def read_signals(settings: Settings, pipeline: Pipeline, emit: Emit = ignore) -> Signals:
    """Read every signal; changes nothing and does not raise. Health is sampled a few times, see ``sample_health``."""
    signals, release = Signals(settings=settings), settings.release

    def attempt(name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (StageError, OSError) as error:
            signals.unread.append((name, describe_error(error)))
            return None

    signals.missing = find_missing(settings)
    signals.holder = attempt("lock", lambda: current_holder(pipeline.root))
    files = attempt("manifests", pipeline.read_manifests) or []
    manifests = [file.manifest for file in files if file.manifest is not None]
    signals.unread += [("manifests", f"{file.release_id}: {file.reason}") for file in files if file.manifest is None]
    signals.latest = manifests[-1] if manifests else None
    ready = [manifest for manifest in manifests if manifest.status == "ready"]
    signals.ready = pipeline.latest_ready() or (ready[-1] if ready else None)
    if signals.ready is not None:
        refusals = Provenance(settings, pipeline).release_refusals(signals.ready, is_latest=True)
        signals.unread += [("manifests", f"{signals.ready.release_id}: {refusal}") for refusal in refusals]
    baseline = signals.baseline
    if release.questions:
        emit(StepBegan("health"))
        signals.health = attempt("health", lambda: _ask(release, baseline, emit))
    signals.reliability = fetch_reliability(release.reliability, before=baseline.pressure if baseline else None)
    snapshots, unreadable = attempt("snapshots", pipeline.catalogue.published) or ([], [])
    signals.unread += [("snapshots", f"{entry.snapshot_id}: {entry.reason}") for entry in unreadable]
    signals.snapshot = next((found for found in reversed(snapshots) if found.kind == "release"), None)
    if signals.snapshot is not None:
        name = signals.snapshot.snapshot_id
        emit(StepBegan("verify", name))
        signals.verdict = attempt("snapshots", lambda: _verdict(settings, pipeline, name, emit))
        drills = attempt("drills", lambda: read_restore_tests(pipeline)) or RestoreTests()
        signals.restore_test = drills.by_snapshot.get(name)
        signals.unread += [("drills", drills.problem)] if drills.problem else []
    signals.refused = attempt("snapshots", lambda: _refused(Provenance(settings, pipeline), snapshots)) or {}
    signals.state = attempt("rollback", pipeline.read_state)
    is_open = signals.state is not None and signals.state.status == "in_progress"
    signals.has_journal = pipeline.has_journal()
    signals.is_interrupted = signals.holder is None and (signals.has_journal or is_open)
    signals.last_restore = attempt("rollback", lambda: _last_restore(settings, pipeline, signals.state))
    signals.audit = attempt("audit", lambda: pipeline.audit.verify(pipeline.anchors()))
    signals.verdicts = read_verdicts(signals.audit.events if signals.audit is not None else [], snapshots)
    signals.attempt = _last_attempt(signals.audit.events if signals.audit is not None else [])
    if (pairing := attempt("pairing", lambda: Pairing(settings.pairing))) is not None:
        signals.pairing_audit = attempt("pairing", pairing.audit.verify)
        for channel in Channel:
            waiting = attempt("pairing", functools.partial(pairing.pending, channel)) or []
            signals.pending[channel.value] = len(waiting)
    signals.disks = attempt("disk", lambda: _disks(settings, pipeline, signals.snapshot)) or []
    return signals


def _verdict(settings: Settings, pipeline: Pipeline, snapshot_id: str, emit: Emit) -> SnapshotVerdict:
    """Return the verdict on the bytes and the records of a snapshot; a rollback refuses a damaged one."""
    verdict = verify_all(pipeline.catalogue, snapshot_id, assets=settings.release.assets, emit=emit)[0]
    provenance, snapshot = Provenance(settings, pipeline), pipeline.catalogue.get(snapshot_id)
    records = provenance.find(snapshot)
    if problem := provenance.latest_problem(snapshot):
        records.append(RecordFinding(kind="missing", what=problem.rstrip(".")))
    return with_records(verdict, [evolve(each, kind="missing") for each in records])


def _refused(provenance: Provenance, snapshots: list[SnapshotMetadata]) -> dict[str, str]:
    """Return the snapshots whose records disagree, with the reason; a missing signature alone is none."""
    reasons = {}
    for snapshot in snapshots:
        found = [str(each) for each in provenance.find(snapshot) if each.kind != "unsigned"]
        if found:
            reasons[snapshot.snapshot_id] = "; ".join(found)
    return reasons


def _ask(release: ReleaseConfig, before: Baseline | None, emit: Emit) -> HealthReport:
    require_requests(release, health_only=True)
    return sample_health(release.health, release.questions, before=before, emit=emit)


def _last_attempt(events: list[dict[str, Any]]) -> LastRollback | None:
    for event in reversed(events):
        kind = str(event.get("event", ""))
        if kind == "prepare.ready":
            return None
        # A refused attempt changed nothing, so the state is still the result of an attempt before it.
        if kind.startswith("rollback.") and event.get("status") not in ("in_progress", "refused"):
            snapshot = event.get("snapshotId") or event.get("requestedSnapshot")
            return LastRollback(
                status=str(event.get("status", "")),
                snapshot_id=str(snapshot) if snapshot else None,
                detail=str(event.get("detail", "")),
                had_no_effect=kind == "rollback.recovered"
                or (kind == "rollback.refused" and "rollbackId" not in event),
            )
    return None


def _last_restore(settings: Settings, pipeline: Pipeline, state: RollbackState | None) -> LastRestore | None:
    if state is None or state.restored_snapshot_id is None:
        return None
    target = pipeline.catalogue.get(state.restored_snapshot_id)
    return find_last_restore(settings, pipeline, target)


def _disks(settings: Settings, pipeline: Pipeline, snapshot: SnapshotMetadata | None) -> list[Space]:
    """Return each disk that a rollback to ``snapshot`` writes to, with what the rollback needs there."""
    if snapshot is None:
        return []
    assets, folder = settings.release.assets, pipeline.catalogue.path(snapshot.snapshot_id)
    safety = capture_needs(pipeline.root, assets, "the safety copy of a rollback")
    return spaces([*safety, *restore_needs(snapshot, folder, assets)])
