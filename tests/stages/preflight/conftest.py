"""A scratch project, its gates, and functions that find processes."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import Settings
from release_tasks.core.records import Check
from release_tasks.stages.preflight.engine import PreflightRun, run_preflight
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings
from tests.support.processes import processes_with

Run = Callable[..., PreflightRun]


def settings_of(project: Path, gates: dict[str, Any], **release: Any) -> Settings:
    """Return settings of a project with these gates; health checks have short deadlines."""
    health = {"timeout": "1s", "deadline": "500ms", "interval": "50ms", **release.pop("health", {})}
    return load_settings({"release": {"gates": gates, "health": health, **release}}, project)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs gates given as in invoke.yaml."""

    def start(gates: dict[str, Any], **options: Any) -> PreflightRun:
        release = options.pop("release", {})
        flags = {name: options.pop(name) for name in ("health_url", "strict") if name in options}
        settings = with_flags(settings_of(tmp_path, gates, **release), **flags)
        return run_preflight(settings, **{"release_id": "v1", **options})

    return start


@pytest.fixture
def check(run: Run) -> Callable[..., Check]:
    """Return a function that runs one gate and returns its result."""

    def start(gate: dict[str, Any], **options: Any) -> Check:
        (result,) = run({"gate": gate}, **options).report.checks
        return result

    return start


@pytest.fixture
def tag() -> str:
    """Return a word that no other process has on its command line."""
    return f"tag{uuid.uuid4().hex}"


@pytest.fixture
def nothing_left(tag: str) -> Iterator[Callable[[], None]]:
    """Assert, on call and at the end, that no process with the tag exists."""

    def wait() -> None:
        until = time.monotonic() + 2
        while processes_with(tag) and time.monotonic() < until:
            time.sleep(0.01)
        assert processes_with(tag) == []

    yield wait
    left = processes_with(tag)
    for pid in left:
        os.kill(pid, 9)
    assert left == []
