"""Each stage asks health in the configured way: by a Unix socket, with a secret header, for an expected answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.errors import UsageError
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.watch.samples import take_sample
from release_tasks.stages.watch.watching import require_watchable
from tests.support.endpoint import Endpoint
from tests.support.project import Project

SECRET = "the-token-of-the-service"
UNSET = "the header Authorization needs the variable HEALTH_AUTH, which is not set."
REQUEST = {"headers": {"Authorization": "Bearer ${HEALTH_AUTH}"}, "expect": {"equals": True}}
# Answers `true`, as Prefect does, to a request with the token.
SERVICE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_admitted = self.headers["Authorization"] == "Bearer the-token-of-the-service"
        self.send_response(200 if is_admitted else 401)
        self.end_headers()
        self.wfile.write(b"true")
http.server.HTTPServer(("127.0.0.1", int(os.environ["RELEASE_TASKS_DRILL_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def service(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """Start a service that answers on a Unix socket, with the token only, and configure the project for it."""
    endpoint = Endpoint(unix_socket=tmp_path / "app.sock")
    endpoint.required = {"Authorization": f"Bearer {SECRET}"}
    endpoint.body = True
    monkeypatch.setenv("HEALTH_AUTH", SECRET)
    health = {"url": endpoint.url, "deadline": "20s", "interval": "20ms", **REQUEST}
    project.overrides |= {f"health.{key}": value for key, value in health.items()}
    project.overrides["gates"] = {"api": {"http": "health"}}
    yield endpoint
    endpoint.close()


def roll_back(project: Project, **flags: Any) -> RollbackOutcome:
    return rollback(project.settings, RollbackRequest(**flags))


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_every_stage_gets_the_expected_answer(project: Project, service: Endpoint) -> None:
    """Preflight, prepare, rollback, watch and diagnose send the header; no record contains its secret."""
    settings = project.settings
    release = prepare_release(settings, release_id="v1")
    assert (release.status, release.preflight.checks[0].detail) == ("ready", "HTTP 200, as expected")
    baseline = release.baseline
    assert baseline is not None
    assert baseline.health == "ok"
    assert baseline.latency_ms is not None
    project.damage()
    restored = roll_back(project)
    assert restored.health_check is not None
    assert (restored.status, restored.health_check.status) == ("restored", "ok")
    assert take_sample(settings.release, baseline).finding == "ok"
    signals, _ = diagnose_service(settings)
    assert signals.health is not None
    assert signals.health.status == "ok"
    assert {received.headers.get("authorization") for received in service.received} == {f"Bearer {SECRET}"}
    assert files_with(project.settings.release.root, SECRET) == []


def test_every_stage_sees_an_answer_that_is_not_expected(project: Project, service: Endpoint) -> None:
    """HTTP 200 with another value is a failure, with its reason; the next command has no secret."""
    prepare_release(project.settings, release_id="v1")
    service.body = False
    project.overrides["health.deadline"] = "300ms"
    reason = "HTTP 200, but the body is false, expected true"
    (check,) = run_preflight(project.settings).report.checks
    assert (check.status, check.detail, check.diagnostics["status"]) == ("failed", reason, "failed")
    assert '-H "Authorization: Bearer ${HEALTH_AUTH}"' in check.diagnostics["next"]
    assert f"--unix-socket {project.folder / 'app.sock'}" in check.diagnostics["next"]
    project.damage()
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert any(reason in text for text in outcome.diagnostics), outcome.diagnostics
    sample = take_sample(project.settings.release, None)
    assert (sample.finding, sample.health, sample.detail) == ("bad", "failed", reason)
    signals, _ = diagnose_service(project.settings)
    assert signals.health is not None
    assert signals.health.detail.endswith(reason)
    assert files_with(project.settings.release.root, SECRET) == []


def test_nothing_begins_while_the_request_cannot_be_sent(
    project: Project, service: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable says nothing about the service."""
    settings = project.settings
    prepare_release(settings, release_id="v1")
    monkeypatch.delenv("HEALTH_AUTH")
    (check,) = run_preflight(settings).report.checks
    assert (check.status, check.detail) == ("failed", UNSET)
    project.damage()
    before = project.content()
    asked = len(service.received)
    stages: list[Callable[[], object]] = [
        lambda: prepare_release(settings, release_id="v2"),
        lambda: roll_back(project),
        lambda: require_watchable(settings),
        lambda: run_drill(settings, boot=True),
    ]
    for stage in stages:
        with pytest.raises(UsageError, match=f"release.health: {UNSET}"):
            stage()
    assert project.content() == before
    signals, diagnosis = diagnose_service(settings)
    assert (signals.health, diagnosis.status) == (None, "act")
    assert any(f"release.health: {UNSET}" in str(finding) for finding in diagnosis.findings)
    assert take_sample(settings.release, None).finding == "unknown"
    assert len(service.received) == asked
    assert any("http+unix" in note for note in plan_rollback(settings).diagnostics)
    forced = roll_back(project, force=True)
    assert (forced.status, project.content() == before) == ("failed", False)
    assert any(UNSET in text for text in forced.diagnostics)


@pytest.mark.slow
def test_a_drill_asks_the_started_service_in_the_same_way(project: Project, service: Endpoint, tmp_path: Path) -> None:
    """Its URL has another port; header and expected answer are those of release.health."""
    (tmp_path / "service.py").write_text(SERVICE)
    project.overrides["drill"] = {"command": f"exec {sys.executable} {tmp_path / 'service.py'}", "timeout": "30s"}
    prepare_release(project.settings, release_id="v1")
    outcome = run_drill(project.settings, boot=True)
    assert outcome.boot is not None
    assert (outcome.status, outcome.boot.passed) == ("passed", True), outcome.boot
