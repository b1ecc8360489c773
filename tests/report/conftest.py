"""A release in which every text of another party tries to be markup or a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from release_tasks import stages
from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.records import Check, PreflightReport
from release_tasks.report.html.page import find_release, gather
from release_tasks.report.html.render import render
from release_tasks.service.application import Application
from tests.support.faults.stages import prepare
from tests.support.project import Project

HOSTILE = (
    "</title></style></pre></code></textarea><script>document.title='owned';alert(1)</script>"
    "<img src=x onerror=alert(2)><svg onload=alert(3)>\"' onclick=alert(4) {{ 7 * 7 }} {% raw %}"
    "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\u200b\ufeff\x00\udcff\u05e9\u05dc\u05d5\u05dd"
)


@pytest.fixture
def hostile_page(project: Project, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the page of a release whose gates, logs, health, files, actors and watches are all hostile."""
    monkeypatch.setenv("SUDO_USER", HOSTILE.replace("\x00", ""))
    # As prepared before such names and versions were refused.
    application = Application(name=HOSTILE, version=HOSTILE)
    monkeypatch.setattr(stages.prepare, "describe_application", lambda settings: application)
    prepare(project.settings, _report(), "v1")
    name = HOSTILE.replace("/", "|").replace("\x00", "")[:120]
    Path(project.identity, name).write_text("key material")
    project.mcp.write_text('{"mcpServers": {"<script>alert(5)</script>\\u202e": {"command": "<b>"}}}')
    prepare(project.settings, _report(), "v2")
    pipeline: Pipeline = project.pipeline
    logs = pipeline.logs / "v2"
    logs.mkdir(parents=True)
    (logs / "hostile.log").write_bytes(HOSTILE.encode("utf-8", "surrogatepass") * 20)
    attempt = {"time": HOSTILE, "finding": HOSTILE, "health": HOSTILE, "latencyMs": 3, "detail": HOSTILE}
    pipeline.audit.append(
        "watch.degraded", status=HOSTILE, detail=HOSTILE, release_id="v2", reasons=[HOSTILE], samples=[attempt]
    )
    return render(gather(project.settings, find_release(pipeline, "v2")))


def _report() -> PreflightReport:
    attempt = {"at": HOSTILE, "status": HOSTILE, "passed": False, "latencyMs": 5, "detail": HOSTILE}
    diagnostics = {
        "outputTail": [HOSTILE],
        "problems": [HOSTILE],
        "next": HOSTILE,
        "url": f"javascript:{HOSTILE}",
        "history": [attempt],
    }
    common = {"subsystem": HOSTILE, "detail": HOSTILE, "command": HOSTILE, "diagnostics": diagnostics}
    checks = [
        Check(id="hostile", status="passed", **common),  # type: ignore[arg-type]
        Check(id=HOSTILE, status="failed", advisory=True, **common),  # type: ignore[arg-type]
    ]
    return PreflightReport(passed=True, checks=checks, failed_checks=[])
