"""Releases prepared on gates whose results a test chooses."""

from __future__ import annotations

from release_tasks.core.records import Check, PreflightReport, PreparedRelease
from release_tasks.tasks.flags import with_flags
from tests.support.faults.stages import prepare
from tests.support.project import Project

__all__ = ["PASSED", "good_release", "preflight_report", "release"]

PASSED = Check(id="build", subsystem="build", status="passed", detail="exit 0", command="true")


def preflight_report(*checks: Check) -> PreflightReport:
    """Return the report of these gates; it passed unless one of them blocks."""
    failed = [check.id for check in checks if check.blocks]
    return PreflightReport(passed=not failed, checks=list(checks), failed_checks=failed)


def release(project: Project, release_id: str = "v1", *checks: Check, retention: int | None = None) -> PreparedRelease:
    """Prepare a release on these gates, or on one that passed."""
    settings = with_flags(project.settings, retention=retention)
    return prepare(settings, preflight_report(*(checks or (PASSED,))), release_id)


def good_release(project: Project, release_id: str = "v1", *, retention: int | None = None) -> PreparedRelease:
    """Prepare a release that a watch judges healthy."""
    manifest = release(project, release_id, retention=retention)
    project.pipeline.audit.append("watch.finished", status="healthy", release_id=release_id)
    return manifest
