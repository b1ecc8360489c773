"""Fixtures of the watch's tests: a scripted service, a clock that the test sets, a release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from release_tasks.core.records import Manifest, PreflightReport
from tests.support.faults.stages import prepare
from tests.support.project import Project
from tests.support.watched_service import SetClock, WatchedService


@pytest.fixture
def service() -> Iterator[WatchedService]:
    """Serve a scripted service on a free loopback port."""
    running = WatchedService()
    yield running
    running.close()


@pytest.fixture
def clock() -> SetClock:
    """Return a clock that only waits advance."""
    return SetClock()


@pytest.fixture
def release() -> Callable[..., Manifest]:
    """Return a maker of releases: ``release(project, "v1")`` prepares one, baseline and snapshot included."""

    def make(project: Project, release_id: str = "v1") -> Manifest:
        report = PreflightReport(passed=True, checks=[], failed_checks=[])
        manifest = prepare(project.settings, report, release_id)
        assert manifest.status == "ready", manifest.diagnostics
        return manifest

    return make


@pytest.fixture
def watched(project: Project, service: WatchedService) -> Project:
    """Return a scratch project whose service is watched every 10 s for 3 minutes, 19 samples."""
    project.overrides["health.url"] = f"{service.base}/health"
    project.overrides["health.timeout"] = "10s"
    project.overrides["health.deadline"] = "500ms"
    project.overrides["health.passes_after_restore"] = 1
    project.overrides["watch"] = {"for": "3m", "interval": "10s"}
    return project


@pytest.fixture
def events() -> Callable[[Any], list[dict[str, Any]]]:
    """Return a reader of the audit log, which must be intact."""

    def read(project: Project) -> list[dict[str, Any]]:
        verdict = project.pipeline.audit.verify(project.pipeline.anchors())
        assert verdict.intact, verdict.problems
        return list(verdict.events)

    return read
