"""The text of each event, from the records that stages return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.records import (
    Check,
    HealthReport,
    Manifest,
    PreflightReport,
    RollbackOutcome,
    SnapshotReference,
)
from release_tasks.stages.notifications.wording import about_degraded, about_failure, about_manifest, about_rollback

THEN = "2026-11-22T18:00:00.000Z"


@pytest.fixture
def settings(settings_with: Callable[..., Settings]) -> Settings:
    made: Settings = settings_with()
    return made


def manifest(*checks: Check, status: Any = "ready", diagnostics: list[str] | None = None) -> Manifest:
    reference = SnapshotReference(snapshot_id="v2_snapshot", metadata_path="/x") if status == "ready" else None
    return Manifest(
        manifest_version=1,
        release_id="v2",
        generated_at=THEN,
        app_version="2.0",
        status=status,
        preflight=PreflightReport(passed=status == "ready", checks=list(checks), failed_checks=[]),
        snapshot=reference,
        artifacts=[],
        diagnostics=diagnostics or [],
        manifest_path="/x",
    )


def check(name: str, status: Any, advisory: bool = False) -> Check:
    diagnostics = {"next": f"inv gate.run {name}"}
    return Check(id=name, subsystem=name, status=status, detail="d", advisory=advisory, diagnostics=diagnostics)


def outcome(status: Any, *diagnostics: str, health: HealthReport | None = None) -> RollbackOutcome:
    return RollbackOutcome(
        status=status,
        snapshot_id="v2_snapshot",
        started_at=THEN,
        completed_at=THEN,
        health_check=health,
        diagnostics=list(diagnostics),
    )


def test_prepared(settings: Settings) -> None:
    """The text has the version and the snapshot; the next command is the watch, complete without a configured URL."""
    assert about_manifest(settings, manifest()).next == "inv release.watch --health-url URL"
    health = evolve(settings.release.health, url="http://127.0.0.1:9/health")
    settings = evolve(settings, release=evolve(settings.release, health=health))
    notice = about_manifest(settings, manifest())
    assert (notice.occasion, notice.status, notice.text) == ("prepared", "ready", "demo: release v2 is ready")
    assert (notice.application.version, notice.snapshot_id, notice.next) == ("2.0", "v2_snapshot", "inv release.watch")


def test_blocked(settings: Settings) -> None:
    """The first reason, and the command of the first mandatory gate that failed."""
    checks = [check("lint", "failed", advisory=True), check("build", "passed"), check("tests", "failed")]
    notice = about_manifest(settings, manifest(*checks, status="blocked", diagnostics=["tests: exit code 3", "more"]))
    assert (notice.occasion, notice.text) == ("blocked", "demo: release v2 is blocked: tests: exit code 3")
    assert (notice.next, notice.snapshot_id) == ("inv gate.run tests", None)
    assert notice.diagnostics == ["tests: exit code 3", "more"]
    other = about_manifest(settings, manifest(status="blocked", diagnostics=["database: no room"]))
    assert other.next == "inv release.diagnose"


def test_rollback(settings: Settings) -> None:
    """Restored with the health result, failed with the first reason, no notification for a noop."""
    well = HealthReport(passed=True, status="ok", url="http://h", detail="ok")
    restored = about_rollback(settings, Pipeline(settings.release.root), outcome("restored", health=well))
    failed = about_rollback(settings, Pipeline(settings.release.root), outcome("failed", "no room", "To go back: ..."))
    assert restored is not None and failed is not None
    assert restored.text == "demo: rolled back to v2_snapshot, health: ok"
    assert (restored.occasion, failed.occasion) == ("restored", "failed")
    assert failed.text == "demo: the rollback to v2_snapshot failed: no room"
    assert failed.next == "inv release.diagnose" and failed.diagnostics[1] == "To go back: ..."
    assert about_rollback(settings, Pipeline(settings.release.root), outcome("noop")) is None


@pytest.mark.parametrize(
    ("snapshot_id", "will_roll_back", "printed", "next_command"),
    [
        ("v2_snapshot", True, "is degraded, rolling back now: 3 bad", "inv release.status"),
        ("v2_snapshot", False, "is degraded: 3 bad", "inv release.rollback --snapshot v2_snapshot"),
        (None, False, "is degraded: 3 bad", "inv release.diagnose"),
    ],
)
def test_degraded(
    settings: Settings, snapshot_id: str | None, will_roll_back: bool, printed: str, next_command: str
) -> None:
    """The text says whether a rollback runs, or what to type."""
    notice = about_degraded(settings, manifest(), ["3 bad"], snapshot_id, will_roll_back=will_roll_back)
    assert notice.text == f"demo: release v2 {printed}" and notice.next == next_command


def test_a_stage_that_failed(settings: Settings) -> None:
    """The text names the stage and the reason."""
    notice = about_failure(settings, "release.recover", "The journal is unreadable.")
    assert notice.text == "demo: release.recover failed: The journal is unreadable."
    assert (notice.occasion, notice.stage, notice.release_id) == ("failed", "release.recover", None)
