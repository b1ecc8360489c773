"""Each answer ends with the command to type and says what happened."""

from __future__ import annotations

import io
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.assets.findings import AssetFinding
from release_tasks.core.audit import AuditFinding, AuditVerdict
from release_tasks.core.records import Check, HealthReport, Manifest, PreflightReport, RollbackOutcome
from release_tasks.report.answers import (
    after_preflight,
    show_audit,
    show_drill,
    show_manifest,
    show_outcome,
    show_preflight,
    show_verdicts,
    show_watch,
)
from release_tasks.report.screen import Screen

FAILED = Check(id="build", subsystem="build", status="failed", detail="exit code 1")
BLOCKED = Manifest(
    manifest_version=1,
    release_id="v1",
    generated_at="2026-11-22T08:37:41.000Z",
    status="blocked",
    preflight=PreflightReport(passed=False, checks=[FAILED], failed_checks=["build"]),
    artifacts=[],
    diagnostics=["build: exit code 1"],
    manifest_path="/x/v1.json",
)
OUTCOME = RollbackOutcome(status="failed", snapshot_id="v1_snapshot", started_at="", completed_at="")
HEALTHY = HealthReport(passed=True, status="ok", url="http://x", detail="")
DRILL: dict[str, Any] = {
    "assets": [],
    "databases": [],
    "boot": None,
    "snapshotId": "v1_snapshot",
    "durationMs": 5,
    "status": "failed",
}
WATCH = {"counts": {"looks": 1, "ok": 0, "bad": 1, "unknown": 0}, "releaseId": "v1", "reasons": ["HTTP 500"]}


def shown(show: Any, *values: Any) -> list[str]:
    """Return the lines of an answer."""
    out = io.StringIO()
    show(Screen(out), *values)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        (shown(show_manifest, BLOCKED), "inv release.prepare --release-id v1"),
        (shown(show_outcome, evolve(OUTCOME, diagnostics=["The disk is full."])), "inv release.status"),
        (
            shown(show_verdicts, [SnapshotVerdict(snapshot_id="v1_snapshot", status="damaged", findings=[])]),
            "inv release.prepare",
        ),
        (
            shown(show_audit, AuditVerdict(events=[], problems=[AuditFinding(line=1, what="altered")], notes=[]), 5),
            "inv release.audit --limit 1",
        ),
        (shown(show_drill, {**DRILL, "diagnostics": ["It differs."]}), "inv release.prepare"),
        (shown(show_watch, {**WATCH, "status": "degraded", "diagnostics": []}, None), "inv release.diagnose"),
    ],
)
def test_a_negative_answer_ends_with_a_command(lines: list[str], command: str) -> None:
    """This holds when the stage itself names no command too."""
    assert lines[-1].endswith(command)


def test_the_command_of_the_stage_comes_last() -> None:
    """Nothing is added after it."""
    message = "The restored state was kept. Go back: inv release.rollback --snapshot safety"
    assert shown(show_outcome, evolve(OUTCOME, diagnostics=[message]))[-1] == f"  {message}"


def test_a_preflight_names_the_failed_gate() -> None:
    """One failed gate is run alone."""
    assert after_preflight(BLOCKED.preflight) == "Fix it, then run: inv gate.run build"
    two = evolve(BLOCKED.preflight, failed_checks=["build", "tests"])
    assert after_preflight(two) == "Fix it, then run: inv release.preflight"
    assert after_preflight(evolve(BLOCKED.preflight, passed=True, failed_checks=[])) == ""


def test_a_restart_alone_is_not_called_a_restore() -> None:
    """The data was left alone, and no earlier state was stored."""
    outcome = evolve(OUTCOME, status="restored", skipped_assets=["database"], restart_command="true")
    lines = shown(show_outcome, evolve(outcome, safety_snapshot_id="safety_1", health_check=HEALTHY))
    assert lines[0] == "RESTARTED  snapshot v1_snapshot is already live; no data was changed"
    assert not any("safety_1" in line or "RESTORED" in line for line in lines)


def test_a_restore_over_damage_offers_no_rollback_of_it() -> None:
    """Processes with the old file open must be restarted; the safety snapshot has a damaged database."""
    outcome = evolve(OUTCOME, status="restored", restored_assets=["database"], safety_snapshot_id="safety_1")
    assert "inv release.rollback --snapshot safety_1" in shown(show_outcome, outcome)[-1]
    lines = shown(show_outcome, evolve(outcome, damaged_assets=["database"]))
    assert lines[0] == "RESTORED  snapshot v1_snapshot is live"
    assert "replaced by new files: database. Restart" in lines[-2] and "a rollback cannot restore them" in lines[-1]
    assert not any("inv release.rollback" in line for line in lines)


def test_singular_and_plural() -> None:
    """One sample, one event; two have a plural."""
    assert "1 sample," in shown(show_watch, {**WATCH, "status": "degraded", "diagnostics": []}, None)[0]
    event = {"seq": 1}
    assert shown(show_audit, AuditVerdict(events=[event], problems=[], notes=[]), 5)[-1] == "INTACT  1 event"
    assert shown(show_audit, AuditVerdict(events=[event, event], problems=[], notes=[]), 5)[-1] == "INTACT  2 events"


def test_damage_names_the_latest_intact_snapshot() -> None:
    """The operator need not search the list."""
    verdicts = [
        SnapshotVerdict(snapshot_id="v1_snapshot", status="verified"),
        SnapshotVerdict(snapshot_id="v2_snapshot", status="verified"),
        SnapshotVerdict(
            snapshot_id="v3_snapshot", status="damaged", findings=[AssetFinding(key="a", what="is missing")]
        ),
    ]
    assert "The latest snapshot that was verified now is v2_snapshot" in shown(show_verdicts, verdicts)[-1]
    assert shown(show_verdicts, verdicts[:2])[-1] == "VERIFIED  v2_snapshot"


EVIDENCE = {
    "exitCode": 1,
    "outputTail": ["compiling", "error"],
    "logPath": "/x/build.log",
    "next": "inv gate.run build  # full output: /x/build.log",
}


def test_a_failed_gate_is_shown_once() -> None:
    """Reason, command, output, log and next command each stand on one line, alone or before a release."""
    failed = evolve(FAILED, command="make", diagnostics=EVIDENCE)
    report = evolve(BLOCKED.preflight, checks=[failed])
    block = ["FAILED  build", "  command: make", "  | compiling", "  | error", "  log: /x/build.log"]
    gate = ["GATE   RESULT  TIME  REASON", "build  failed  0.0s  exit code 1", ""]
    assert shown(show_preflight, report) == [*gate, *block, "  Fix it, then run: inv gate.run build"]
    assert shown(show_manifest, evolve(BLOCKED, preflight=report)) == [
        *gate,
        *block,
        "  next: inv gate.run build",
        "",
        "BLOCKED  v1 ( unknown version)",
        "  manifest /x/v1.json",
        "  Nothing was captured. Fix it, then run: inv release.prepare --release-id v1",
    ]


def test_evidence_that_the_reason_does_not_name_is_shown() -> None:
    """A code in other words, a URL, an answer's body; a subsystem where one has another name than its gate."""
    found = {"url": "http://x", "httpStatus": 503, "bodyTail": ["no database"], "next": "curl http://x"}
    check = evolve(FAILED, subsystem="web", detail="unhealthy\nfor a minute", command="GET http://x", diagnostics=found)
    report = evolve(BLOCKED.preflight, checks=[check, evolve(check, id="gui", status="skipped")])
    assert shown(show_preflight, report) == [
        "GATE   RESULT   SUBSYSTEM  TIME  REASON",
        "build  failed   web        0.0s  unhealthy",
        "gui    skipped  web        0.0s  unhealthy",
        "",
        "FAILED  build",
        "  | for a minute",
        "  url: http://x",
        "  HTTP status: 503",
        "  | no database",
        "  next: curl http://x",
        "",
        "FAILED  1 of 2 gates did not pass",
        "  Fix it, then run: inv gate.run build",
    ]


def test_failed_health_is_shown_once() -> None:
    """The sentence that reports it has the URL; a noop names the health and no list of unchanged assets."""
    failed = evolve(HEALTHY, passed=False, status="failed")
    lines = shown(show_outcome, evolve(OUTCOME, health_check=failed, diagnostics=["Health at http://x: HTTP 503"]))
    assert sum("http://x" in line for line in lines) == 1
    lines = shown(show_outcome, evolve(OUTCOME, status="noop", skipped_assets=["database"], health_check=HEALTHY))
    assert lines == ["NOOP  snapshot v1_snapshot is already live; nothing was changed", "  health: ok at http://x"]
