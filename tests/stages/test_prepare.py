"""Every attempt to prepare a release leaves a manifest, and every ready release a snapshot."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import release_tasks
from release_tasks.archive.verify import verify_all
from release_tasks.core.errors import ExitCode, LockHeld, StageFailed, UsageError
from release_tasks.core.events import BytesMoved, Event
from release_tasks.core.lock import run_lock
from release_tasks.core.records import Check, PreflightReport, RollbackState
from release_tasks.stages.prepare import require_new_release_id
from release_tasks.tasks.flags import with_flags
from tests.support.faults.stages import prepare
from tests.support.health import Health
from tests.support.project import Project
from tests.support.releases import PASSED, good_release, preflight_report, release
from tests.support.scripts import locked_database

FAILED = Check(id="tests", subsystem="tests", status="failed", detail="exit 1", command="false")
NOT_SELECTED = Check(id="tests", subsystem="tests", status="skipped", detail="left out", diagnostics={"leftOut": True})

MANIFEST_KEYS = {
    "manifestVersion", "releaseId", "generatedAt", "appVersion", "gitCommit", "gitDirty", "status", "preflight", "snapshot",  # noqa: E501
    "artifacts", "diagnostics", "manifestPath",
}  # fmt: skip
CHECK_KEYS = {"id", "subsystem", "status", "detail", "command", "startedAt", "completedAt", "durationMs", "diagnostics"}

PREPARE_AND_KILL = """
import os, sys
from pathlib import Path
import release_tasks.archive.pipeline, release_tasks.core.durable
from release_tasks.tasks.project import load_settings
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.core.records import PreflightReport
import json
raw, project, moment = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def kill(*_):
    os.kill(os.getpid(), 9)
if moment == "before the manifest":
    release_tasks.archive.pipeline.Pipeline.write_manifest = kill
elif moment == "inside a write":
    real = os.replace
    os.replace = lambda source, target: kill() if str(target).endswith("manifests/v1.json") else real(source, target)
report = PreflightReport(passed=True, checks=[], failed_checks=[])
run = PreflightRun(
    release_id="v1", report=report, health_url=None, only=(), skip=(), strict=False, log_directory=project / "logs"
)
prepare_release(load_settings({"release": raw}, project), preflight=run)
"""


def manifest_file(project: Project, name: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project.pipeline.manifests / f"{name}.json").read_text())
    return document


def snapshots(project: Project) -> list[str | None]:
    return [snapshot.release_id for snapshot in project.pipeline.catalogue.published()[0]]


def test_manifest_records_the_phases_with_their_times(project: Project) -> None:
    """Preflight spans the first to the last gate, then capture and publish; a blocked release has no capture."""
    early = evolve(PASSED, id="early", started_at="2026-01-31T03:00:00.000Z", completed_at="2026-01-31T03:00:02.000Z")
    late = evolve(PASSED, started_at="2026-01-31T03:00:01.000Z", completed_at="2026-01-31T03:00:09.000Z")
    failed = evolve(FAILED, started_at=late.started_at, completed_at=late.completed_at)
    phases = release(project, "v1", early, late).phases
    assert [phase.name for phase in phases] == ["preflight", "capture", "publish"]
    assert (phases[0].started_at, phases[0].completed_at) == (early.started_at, late.completed_at)
    assert phases[1].started_at <= phases[1].completed_at <= phases[2].started_at <= phases[2].completed_at
    assert [phase["name"] for phase in manifest_file(project)["phases"]] == ["preflight", "capture", "publish"]
    assert [phase.name for phase in release(project, "v2", failed).phases] == ["preflight", "publish"]
    assert [phase.name for phase in release(project, "v3").phases] == ["capture", "publish"]


@pytest.mark.parametrize("make_link", [os.link, os.symlink])
def test_two_assets_that_are_one_file_block_the_release(
    project: Project, make_link: Callable[[Path, Path], None]
) -> None:
    """The sentence has both keys: after a restore they would be two files."""
    make_link(project.mcp, project.extra)
    manifest = release(project, "v1")
    assert manifest.status == "blocked"
    assert manifest.diagnostics[0] == (
        f"extra: {project.extra} is the same file as release.assets.mcp, by a link. Give release.assets.extra a file "
        "of its own, or remove it."
    )


@pytest.mark.smoke
def test_ready_release_has_a_manifest_and_a_snapshot(project: Project) -> None:
    """Every key of the format exists, and manifest and snapshot refer to each other."""
    manifest = release(project)
    document = manifest_file(project)
    assert manifest.status == document["status"] == "ready"
    assert document.keys() >= MANIFEST_KEYS
    assert document["preflight"].keys() >= {"passed", "checks", "failedChecks"}
    assert document["preflight"]["checks"][0].keys() >= CHECK_KEYS
    assert document["snapshot"].keys() >= {"snapshotId", "metadataPath", "digest"}
    assert all(artifact.keys() >= {"id", "path", "exists", "size", "sha256"} for artifact in document["artifacts"])
    metadata = json.loads(Path(document["snapshot"]["metadataPath"]).read_text())
    assert metadata["digest"] == document["snapshot"]["digest"]
    assert metadata["releaseId"] == document["releaseId"] == "v1"
    assert document["manifestPath"] == str(project.pipeline.manifest_path("v1"))
    assert manifest_file(project, "latest") == document
    assert [verdict.status for verdict in verify_all(project.pipeline.catalogue)] == ["verified"]


def test_artifacts_record_the_live_assets(project: Project) -> None:
    """Path, existence, size and digest of each asset."""
    release(project)
    artifacts = {artifact["id"]: artifact for artifact in manifest_file(project)["artifacts"]}
    assert artifacts["mcp"]["path"] == str(project.mcp)
    assert artifacts["mcp"]["size"] == project.mcp.stat().st_size
    printed = subprocess.run(["sha256sum", str(project.mcp)], capture_output=True, text=True, check=True).stdout
    assert artifacts["mcp"]["sha256"] == printed.split()[0]
    assert (artifacts["extra"]["exists"], artifacts["extra"]["sha256"]) == (False, None)


def replace_by_dangling_link(project: Project) -> None:
    project.mcp.unlink()
    project.mcp.symlink_to("missing")


def damage_database(project: Project) -> None:
    with project.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 3000)


BLOCKERS: dict[str, tuple[Callable[[Project], object], tuple[Check, ...], str]] = {
    "failed gate": (lambda p: None, (PASSED, FAILED), "tests: exit 1"),
    "skipped gate": (lambda p: None, (evolve(FAILED, status="skipped", detail="needs build"),), "tests: needs build"),
    "gate not selected": (lambda p: None, (PASSED, NOT_SELECTED), "tests: was excluded"),
    "missing file": (lambda p: p.mcp.unlink(), (PASSED,), "mcp: {mcp} is required but does not exist"),
    "missing folder": (lambda p: shutil.rmtree(p.identity), (PASSED,), "identity: {identity} is required but does not exist"),  # noqa: E501
    "missing database": (lambda p: p.database.unlink(), (PASSED,), "database: {database} is required but does not exist"),  # noqa: E501
    "dangling link": (replace_by_dangling_link, (PASSED,), "snapshot: {mcp} is a symbolic link"),
    "damaged database": (damage_database, (PASSED,), "snapshot: "),
    "text for a database": (lambda p: p.database.write_text("x" * 500), (PASSED,), "snapshot: {database} cannot be read"),  # noqa: E501
    "pipe in a folder": (lambda p: os.mkfifo(p.identity / "pipe"), (PASSED,), "snapshot: {identity}/pipe is a named pipe"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("blocker", list(BLOCKERS))
def test_blocked_release_has_a_manifest_and_no_snapshot(project: Project, blocker: str) -> None:
    """The manifest has the reason and the audit log records it; latest.json, catalogue and retention ignore it."""
    change, checks, diagnostic = BLOCKERS[blocker]
    release(project, "good")
    change(project)
    manifest = release(project, "bad", *checks)
    document = manifest_file(project, "bad")
    expected = diagnostic.format(mcp=project.mcp, identity=project.identity, database=project.database)
    assert manifest.status == document["status"] == "blocked"
    assert document["snapshot"] is None
    assert any(line.startswith(expected) for line in document["diagnostics"]), document["diagnostics"]
    assert [check["id"] for check in document["preflight"]["checks"]] == [check.id for check in checks]
    assert manifest_file(project, "latest")["releaseId"] == "good"
    assert snapshots(project) == ["good"]
    assert project.leftovers() == []
    events = project.pipeline.audit.verify().events
    assert [(event["event"], event["releaseId"]) for event in events] == [
        ("prepare.ready", "good"),
        ("prepare.published", "good"),
        ("prepare.blocked", "bad"),
    ]


def test_manifest_lists_every_blocker(project: Project) -> None:
    """Not only the first one."""
    project.mcp.unlink()
    *blockers, way_out = release(project, "v1", FAILED, evolve(NOT_SELECTED, id="gui")).diagnostics
    assert [line.partition(":")[0] for line in blockers] == ["tests", "gui", "mcp"] and "--first" in way_out


def test_advisory_gates_never_block(project: Project) -> None:
    """A failed or skipped advisory gate is recorded and does not block."""
    checks = (PASSED, evolve(FAILED, advisory=True), evolve(NOT_SELECTED, id="gui", advisory=True))
    assert release(project, "v1", *checks).status == "ready"


def test_failed_report_without_a_failed_check_blocks(project: Project) -> None:
    """Prepare never improves the verdict of the gates."""
    manifest = prepare(project.settings, PreflightReport(passed=False, checks=[], failed_checks=[]), "v1")
    assert manifest.status == "blocked"


def test_locked_database_blocks_with_a_message(project: Project) -> None:
    """The message has the process that holds the lock, the time waited and what to do."""
    project.overrides["lock_wait"] = "200ms"
    with locked_database(project.database, "PRAGMA locking_mode = EXCLUSIVE"):
        manifest = release(project)
    assert manifest.status == "blocked"
    assert re.search(r"stayed locked by process \d+ \(.*\) for 0\.2 s", manifest.diagnostics[0])


def test_unknown_collation_causes_no_traceback(project: Project) -> None:
    """A collation that only the service registers blocks with a message, or the release is ready."""
    connection = sqlite3.connect(project.database)
    connection.create_collation("theirs", lambda a, b: (a > b) - (a < b))
    connection.executescript("CREATE TABLE t(x TEXT COLLATE theirs); CREATE INDEX i ON t(x)")
    connection.close()
    assert release(project).status in ("ready", "blocked")


@pytest.mark.parametrize("length", [97, 128, 129, 1000])
def test_message_names_the_real_limit_of_the_id_length(project: Project, length: int) -> None:
    """The suffix of a snapshot id counts, so an id of the length that the message allows is accepted."""
    with pytest.raises(UsageError, match="at most 96 characters"):
        require_new_release_id(project.pipeline, "a" * length)
    require_new_release_id(project.pipeline, "a" * 96)


@pytest.mark.parametrize("release_id", ["../x", "a/b", "..", "", "-x", "latest", "a" * 97, "a b"])
def test_invalid_release_id_is_refused(project: Project, release_id: str) -> None:
    """Exit code 2, and no manifest, snapshot or event."""
    with pytest.raises(UsageError) as error:
        release(project, release_id)
    assert error.value.exit_code == ExitCode.USAGE
    assert project.pipeline.read_manifests() == []
    assert not project.pipeline.audit.path.exists()


def test_release_id_is_used_once(project: Project) -> None:
    """The second attempt changes nothing of the first."""
    release(project)
    before = manifest_file(project)
    with pytest.raises(UsageError, match="'v1' was prepared already, on 20"):
        release(project)
    assert manifest_file(project) == before
    assert snapshots(project) == ["v1"]


def test_id_with_an_unreadable_manifest_is_refused(project: Project) -> None:
    """A file that cannot be read is never overwritten."""
    release(project)
    project.pipeline.manifest_path("v1").write_text("{broken")
    with pytest.raises(UsageError, match="taken by an unreadable manifest"):
        release(project)


def test_blocked_release_is_prepared_again_and_its_manifests_are_kept(project: Project) -> None:
    """The manifests of the blocked attempts stay readable next to the ready one."""
    for attempt in range(2):
        assert release(project, "v1", evolve(FAILED, detail=f"attempt {attempt}")).status == "blocked"
    assert release(project).status == "ready"
    assert manifest_file(project)["status"] == "ready"
    earlier = [manifest_file(project, f"v1~{number}")["diagnostics"] for number in (1, 2)]
    assert earlier == [["tests: attempt 0"], ["tests: attempt 1"]]
    assert [file.release_id for file in project.pipeline.read_manifests()] == ["v1"]


def test_retention_follows_the_sequence(project: Project) -> None:
    """After v9 and v10, keeping one keeps v10."""
    for release_id in ("zz", "v9", "v10"):
        good_release(project, release_id, retention=1)
    assert snapshots(project) == ["v10"]
    assert {file.release_id for file in project.pipeline.read_manifests()} == {"zz", "v9", "v10"}


def test_retention_does_not_count_blocked_releases(project: Project) -> None:
    """A blocked release removes no snapshot."""
    project.overrides["retention"] = 2
    for release_id in ("a", "b"):
        good_release(project, release_id)
    for release_id in ("c", "d", "e"):
        release(project, release_id, FAILED)
    assert snapshots(project) == ["a", "b"]
    release(project, "f")
    assert snapshots(project) == ["b", "f"]


def test_retention_keeps_the_snapshot_of_the_last_rollback(project: Project) -> None:
    """The live snapshot stays although newer ones exist."""
    first = release(project, "a").snapshot
    assert first is not None
    project.pipeline.write_state(
        RollbackState(snapshot_id=first.snapshot_id, status="success", updated_at="t", detail="", restored=True)
    )
    for release_id in ("b", "c", "d"):
        release(project, release_id, retention=1)
    assert snapshots(project) == ["a", "d"]


def test_prepare_is_refused_while_another_run_holds_the_lock(project: Project) -> None:
    """Exit code 75, and nothing is written."""
    with run_lock(project.pipeline.root, "release.rollback"), pytest.raises(LockHeld, match=r"release\.rollback"):
        release(project)
    assert project.pipeline.read_manifests() == []


def test_prepare_is_refused_after_an_interrupted_rollback(project: Project) -> None:
    """A partly restored state is never captured; the message names the command."""
    project.pipeline.root.mkdir()
    project.pipeline.journal_path.write_text("{}")
    with pytest.raises(StageFailed, match=r"inv release\.recover"):
        release(project)
    assert not project.pipeline.manifests.exists()


def test_prepare_without_assets_is_refused(project: Project) -> None:
    """Exit code 2: a release without state is a mistake in the configuration."""
    settings = project.settings
    with pytest.raises(UsageError, match=r"release\.assets"):
        prepare(
            evolve(settings, release=evolve(settings.release, assets={})),
            preflight_report(PASSED),
            "v1",
        )


def test_next_run_removes_partial_snapshots(project: Project) -> None:
    """Partial and half-removed snapshots of a killed run are removed."""
    folder = project.pipeline.catalogue.store.folder
    for name in (".v0_snapshot.partial", ".v00_snapshot.deleted"):
        (folder / name / "assets").mkdir(parents=True)
    release(project)
    assert project.leftovers() == []
    assert snapshots(project) == ["v1"]


def prepare_and_kill(project: Project, moment: str) -> None:
    """Prepare v1 in a process that kills itself at the given moment."""
    command = [sys.executable, "-c", PREPARE_AND_KILL, json.dumps(project.raw), str(project.folder), moment]
    assert subprocess.run(command).returncode == -9


def test_run_killed_before_its_manifest_leaves_no_release_snapshot(project: Project) -> None:
    """The release was never ready, so neither rollback nor retention sees it."""
    prepare_and_kill(project, "before the manifest")
    with pytest.raises(StageFailed):
        project.pipeline.catalogue.latest()


@pytest.mark.slow
def test_retention_does_not_count_killed_runs(project: Project) -> None:
    """A killed run removes no release."""
    good_release(project, "a", retention=2)
    good_release(project, "b", retention=2)
    prepare_and_kill(project, "before the manifest")
    release(project, "c", retention=2)
    assert [release_id for release_id in snapshots(project) if release_id != "v1"] == ["b", "c"]


def test_next_run_removes_temporary_files_of_a_killed_write(project: Project) -> None:
    """The killed run left a temporary file."""
    prepare_and_kill(project, "inside a write")
    release(project, "v2")
    assert project.leftovers() == []


def test_release_that_cannot_be_recorded_leaves_no_snapshot(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the audit event is written: no event, no manifest, no snapshot."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("release_tasks.core.audit.AuditLog.append", full)
    with pytest.raises((StageFailed, OSError)):
        release(project)
    assert snapshots(project) == []


def test_audit_log_that_cannot_be_opened_leaves_no_manifest_and_no_snapshot(project: Project) -> None:
    """A folder is in place of the log."""
    project.pipeline.audit.path.mkdir(parents=True)
    with pytest.raises((StageFailed, OSError)):
        release(project)
    assert snapshots(project) == []
    assert project.pipeline.read_manifests() == []


def test_pipeline_folder_is_private(project: Project) -> None:
    """Modes are 0600 and 0700 with a umask of 0, for ready and blocked releases."""
    before = os.umask(0)
    try:
        release(project, "v1", FAILED)
        release(project, "v1")
        release(project, "v2")
    finally:
        os.umask(before)
    for path in [project.pipeline.root, *project.pipeline.root.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_audit_log_is_anchored_in_manifest_and_snapshot(project: Project) -> None:
    """A log that was cut after a release is detected."""
    release(project, "v1")
    release(project, "v2")
    pipeline = project.pipeline
    assert sorted(source.split("_")[0] for source, _ in pipeline.anchors()) == [
        "manifest v1",
        "manifest v2",
        "snapshot v2",
    ]
    assert pipeline.audit.verify(pipeline.anchors()).intact
    lines = pipeline.audit.path.read_bytes().splitlines(keepends=True)
    pipeline.audit.path.write_bytes(b"".join(lines[:-2]))
    assert "manifest v2" in str(pipeline.audit.verify(pipeline.anchors()).problems[0])


def test_progress_reports_every_byte_of_a_capture(project: Project) -> None:
    """For each asset the copy is reported to its last byte, and for the database the digest of the copy too."""
    events: list[Event] = []
    manifest = prepare(project.settings, preflight_report(PASSED), "v1", events.append)
    assert str(events[0]).startswith("capture v1_snapshot_")
    last = {(event.action, event.key): (event.done, event.total) for event in events if isinstance(event, BytesMoved)}
    sizes = {artifact.id: artifact.size for artifact in manifest.artifacts}
    assert last == {
        **{("capture", key): (size, size) for key, size in sizes.items()},
        ("check", "database"): (sizes["database"], sizes["database"]),
    }
    assert sizes["database"] > 0


def test_unreadable_version_is_a_diagnostic(project: Project) -> None:
    """It does not block the release."""
    project.overrides["app.version"] = {"file": "missing.json", "key": "version"}
    manifest = release(project)
    assert (manifest.status, manifest.app_version) == ("ready", None)
    assert manifest.diagnostics[0].startswith("the version of demo cannot be read: ")


def test_baseline_is_taken_from_the_typed_url(project: Project, health: Health, free_port: int) -> None:
    """The gates used that URL, and a watch compares with it."""
    project.overrides["health.url"] = f"http://127.0.0.1:{free_port}/health"
    manifest = prepare(with_flags(project.settings, health_url=health.url), preflight_report(), "v1")
    assert manifest.baseline is not None and manifest.baseline.health == "ok"
    manifest = prepare(project.settings, preflight_report(), "v2")
    assert manifest.baseline is not None and manifest.baseline.health == "unreachable"


def test_two_releases_without_an_id_in_one_second_have_two_ids(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generated id gets a number when it is taken, so a recipe may prepare twice in a row."""
    monkeypatch.setattr("release_tasks.service.application.compact", lambda: "20260101000000")
    ids = [release_tasks.prepare_release(project.settings).release_id for _ in range(3)]
    assert ids == ["1.0-20260101000000", "1.0-20260101000000-2", "1.0-20260101000000-3"]
