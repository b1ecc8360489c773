"""A service with a health and a reliability endpoint, its releases, and the commands of an operator."""

from __future__ import annotations

from typing import Any

from release_tasks.config.schema import Settings
from release_tasks.core.records import Manifest, RollbackOutcome, SnapshotMetadata
from release_tasks.stages.diagnose.guide import Diagnosis, GuideFinding, decide
from release_tasks.stages.diagnose.signals import Signals, read_signals
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from tests.support.faults.stages import prepare
from tests.support.health import Health
from tests.support.project import Project

__all__ = ["ReleasedService"]


class ReleasedService:
    """One service and its pipeline."""

    def __init__(self, project: Project, health: Health, reliability: Health) -> None:
        self.project = project
        self.health = health
        self.reliability = reliability
        project.overrides["health.url"] = health.url
        project.overrides["reliability.url"] = reliability.url
        self.reset()

    @property
    def settings(self) -> Settings:
        return self.project.settings

    def reset(self) -> None:
        self.health.body = {"ok": True, "data": {"status": "ok"}}
        self.counts()

    def counts(self, queued: int = 0, failed: int = 0, dead: int = 0, rejected: int = 0) -> None:
        """Set the counts of the reliability endpoint; its texts must never be printed."""
        queue: dict[str, Any] = {"totalQueued": queued, "totalDispatching": 1, "totalSent": 7, "totalFailed": failed}
        queue |= {"totalDeadLetters": dead, "recentRecords": [{"text": "A PRIVATE TEXT", "code": "PRIVATE2"}]}
        callbacks = {"totalAccepted": 1, "totalDuplicate": 0, "totalRejected": rejected}
        self.reliability.body = {"ok": True, "data": {"queue": queue, "callbacks": callbacks}}

    def release(self, release_id: str = "v1") -> Manifest:
        """Run preflight and prepare, as the task does."""
        run = run_preflight(self.settings, release_id=release_id)
        return prepare(self.settings, run.report, release_id)

    def roll_back(self, **flags: Any) -> RollbackOutcome:
        return rollback(self.settings, RollbackRequest(**flags))

    def signals(self) -> Signals:
        return read_signals(self.settings, self.project.pipeline)

    def diagnose(self) -> Diagnosis:
        return decide(self.signals())

    def snapshot(self) -> SnapshotMetadata:
        """Return the latest snapshot."""
        snapshot = self.signals().snapshot
        assert snapshot is not None
        return snapshot

    def first_finding(self) -> GuideFinding:
        """Return the finding to act on first; there must be one."""
        first = self.diagnose().first
        assert first is not None
        return first
