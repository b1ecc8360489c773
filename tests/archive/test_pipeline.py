"""The pipeline folder: manifests, the rollback state and the snapshots that retention must keep."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.records import AuditAnchor, Manifest, PreflightReport, RollbackState, SnapshotReference
from tests.support.project import Project


@pytest.fixture
def pipeline(project: Project) -> Pipeline:
    """Return the pipeline of a project in which no command has run."""
    return project.pipeline


def manifest(release_id: str = "v1", sequence: int = 1, **changes: Any) -> Manifest:
    plain = Manifest(
        manifest_version=1,
        release_id=release_id,
        generated_at="2026-01-01T00:00:00.000Z",
        sequence=sequence,
        app_name="demo",
        app_version="1.0",
        git_commit=None,
        git_dirty=None,
        status="ready",
        preflight=PreflightReport(passed=True, checks=[], failed_checks=[]),
        snapshot=SnapshotReference(snapshot_id=f"{release_id}_snapshot", metadata_path="x", digest="d"),
        artifacts=[],
        diagnostics=[],
        manifest_path="x",
    )
    return evolve(plain, **changes)


STATE = RollbackState(snapshot_id="v1_snapshot", status="success", updated_at="t", detail="")


@pytest.mark.smoke
def test_manifests_are_listed_by_sequence(pipeline: Pipeline) -> None:
    """v10 follows v9, and latest.json is the latest ready release."""
    for number, release_id in enumerate(["v9", "v10", "a"], start=1):
        pipeline.write_manifest(manifest(release_id, number))
    assert [file.release_id for file in pipeline.read_manifests()] == ["v9", "v10", "a"]
    latest = pipeline.latest_ready()
    assert latest is not None and latest.release_id == "a"


@pytest.mark.parametrize(
    "checks",
    [
        [{"id": "build", "passed": True}, {"id": "interface-readiness", "passed": False, "detail": "gui is missing"}],
        [{"id": "build", "status": "passed", "durationMs": 3}, {"id": "interface-readiness", "status": "failed"}],
        ["build", "interface-readiness"],
    ],
)
def test_manifest_of_the_older_tool_is_read_with_any_form_of_checks(pipeline: Pipeline, checks: list[object]) -> None:
    """Only the ids of its checks and the list of failed checks are used."""
    document = {"manifestVersion": 1, "releaseId": "v0", "generatedAt": "2024-01-01T00:00:00.000Z", "appVersion": "0.9"}
    document |= {"gitCommit": None, "status": "blocked", "manifestPath": "/x", "diagnostics": [], "artifacts": []}
    document["preflight"] = {"passed": False, "checks": checks, "failedChecks": ["interface-readiness"]}
    pipeline.manifests.mkdir(parents=True)
    (pipeline.manifests / "v0.json").write_text(json.dumps(document))
    (file,) = pipeline.read_manifests()
    assert file.manifest is not None, file.reason
    assert [(check.id, check.status) for check in file.manifest.preflight.checks] == [
        ("build", "passed"),
        ("interface-readiness", "failed"),
    ]


def test_latest_json_never_names_a_blocked_release(pipeline: Pipeline) -> None:
    """A blocked manifest is stored under its own name only."""
    pipeline.write_manifest(manifest("good", 1))
    pipeline.write_manifest(manifest("bad", 2, status="blocked", snapshot=None))
    assert json.loads((pipeline.manifests / "latest.json").read_text())["releaseId"] == "good"
    assert len(pipeline.read_manifests()) == 2


def test_blocked_latest_json_of_the_older_tool_is_ignored(pipeline: Pipeline) -> None:
    """The latest.json of that tool names blocked and drill runs too."""
    pipeline.write_manifest(manifest("bad", 1))
    path = pipeline.manifests / "latest.json"
    path.write_text(path.read_text().replace('"ready"', '"blocked"'))
    assert pipeline.latest_ready() is None


OLDER = {
    "manifestVersion": 1, "releaseId": "old", "generatedAt": "2025-01-01T00:00:00Z", "appVersion": "0.9", "gitCommit": None,  # noqa: E501
    "status": "ready", "preflight": {"passed": True, "checks": [], "failedChecks": []},
    "snapshot": {"snapshotId": "old_snapshot_20250101000000", "metadataPath": "/x/metadata.json"},
    "artifacts": [{"id": "database", "path": "memory/gateway.db", "exists": True}], "diagnostics": [], "manifestPath": "/x",  # noqa: E501
}  # fmt: skip


def test_manifest_of_the_older_tool_is_read(pipeline: Pipeline) -> None:
    """Its manifest without a version counts as a release."""
    pipeline.manifests.mkdir(parents=True)
    (pipeline.manifests / "old.json").write_text(json.dumps(OLDER))
    (file,) = pipeline.read_manifests()
    assert file.manifest is not None, file.reason
    assert (file.manifest.release_id, file.manifest.app_version) == ("old", "0.9")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"manifestVersion": 2}', '{"manifestVersion": true}', '{"manifestVersion": "1"}', "\ud800{"],
)
def test_unreadable_manifest_is_listed_with_the_reason(pipeline: Pipeline, content: str) -> None:
    """It comes first in the list and hides no other manifest."""
    pipeline.write_manifest(manifest("good"))
    (pipeline.manifests / "broken.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    broken, good = pipeline.read_manifests()
    assert (broken.release_id, broken.manifest) == ("broken", None)
    assert "broken.json" in broken.reason
    assert good.manifest is not None


def test_manifest_of_a_newer_version_is_refused(pipeline: Pipeline) -> None:
    """The reason names both versions."""
    pipeline.write_manifest(manifest("v1"))
    path = pipeline.manifest_path("v1")
    path.write_text(path.read_text().replace('"manifestVersion": 1', '"manifestVersion": 2'))
    assert "version 2; this version of release-tasks reads up to 1" in pipeline.read_manifests()[0].reason


@pytest.mark.parametrize("release_id", ["latest", "../x", "a/b", "", "..", "a~1"])
def test_release_id_that_is_no_file_name_is_refused(pipeline: Pipeline, release_id: str) -> None:
    """The reserved name ``latest`` is refused too."""
    with pytest.raises(UsageError):
        pipeline.manifest_path(release_id)


def test_other_files_in_the_folder_are_ignored(pipeline: Pipeline) -> None:
    """Notes, manifests of earlier attempts and temporary files are no releases."""
    pipeline.write_manifest(manifest("v1"))
    for name in ("README.md", "v1~1.json", ".v1.json.abc.tmp", "no extension"):
        (pipeline.manifests / name).write_text("x")
    assert [file.release_id for file in pipeline.read_manifests()] == ["v1"]


def test_rollback_state_round_trips(pipeline: Pipeline) -> None:
    """The written state is read back, and its file is private."""
    assert pipeline.read_state() is None
    state = evolve(STATE, safety_snapshot_id="s", restored=True, audit=AuditAnchor(seq=3, hash="h"))
    pipeline.write_state(state)
    assert pipeline.read_state() == state
    assert stat.S_IMODE(pipeline.state_path.stat().st_mode) == 0o600


def test_rollback_state_of_the_older_tool_is_read(pipeline: Pipeline) -> None:
    """Its four keys are enough; it does not count as restored by this tool."""
    pipeline.root.mkdir()
    pipeline.state_path.write_text(
        json.dumps({"snapshotId": "old", "status": "success", "updatedAt": "2025", "detail": "ok"})
    )
    state = pipeline.read_state()
    assert state is not None
    assert (state.snapshot_id, state.restored) == ("old", False)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"snapshotId": 1}', b"[]"])
def test_unreadable_rollback_state_is_reported(pipeline: Pipeline, content: bytes) -> None:
    """A message stops what depends on the state, and nothing else."""
    pipeline.root.mkdir()
    pipeline.state_path.write_bytes(content)
    with pytest.raises(StageFailed, match="rollback state is unreadable"):
        pipeline.read_state()
    assert pipeline.protected_snapshots() == set()
    assert pipeline.anchors() == []


def test_current_release_and_last_rollback_protect_their_snapshots(pipeline: Pipeline) -> None:
    """The deployed, the restored and the safety snapshot are protected."""
    pipeline.write_manifest(manifest("v1", 1))
    pipeline.write_manifest(manifest("v2", 2))
    pipeline.write_state(evolve(STATE, snapshot_id="old", safety_snapshot_id="safety"))
    assert pipeline.protected_snapshots() == {"v2_snapshot", "old", "safety"}
    pipeline.write_state(evolve(STATE, snapshot_id="old"))
    assert pipeline.protected_snapshots() == {"v2_snapshot", "old"}


def test_new_release_changes_the_lineage(project: Project, pipeline: Pipeline) -> None:
    """A release that becomes unreadable later is no new release."""
    for sequence, release_id in enumerate(["v9", "v10"], start=1):
        before = pipeline.lineage()
        assert not pipeline.was_prepared_since(before)
        project.capture(release_id)
        pipeline.write_manifest(manifest(release_id, sequence))
        assert pipeline.was_prepared_since(before)
    now = pipeline.lineage()
    (pipeline.catalogue.path("v10_snapshot") / "metadata.json").write_text("{}")
    pipeline.manifest_path("v10").write_text("{}")
    assert not pipeline.was_prepared_since(now)


def test_blocked_attempt_does_not_change_the_lineage(project: Project, pipeline: Pipeline) -> None:
    """Otherwise the same rollback after it would restore again and remove rows that the service wrote."""
    project.capture("v1")
    pipeline.write_manifest(manifest("v1", 1))
    before = pipeline.lineage()
    pipeline.write_manifest(manifest("bad", 2, status="blocked", snapshot=None))
    assert not pipeline.was_prepared_since(before)


@pytest.mark.parametrize("lineage", [None, "", "x", "1", "1/x", "v1_snapshot", "1/2/3"])
def test_unreadable_lineage_counts_as_changed(pipeline: Pipeline, lineage: str | None) -> None:
    """When the lineage is uncertain, the rollback skips nothing."""
    pipeline.write_manifest(manifest("v1", 1))
    assert pipeline.was_prepared_since(lineage)


def test_anchors_come_from_manifests_snapshots_and_state(project: Project, pipeline: Pipeline) -> None:
    """Each anchor names its source, and together they reveal a truncated log."""
    anchor = pipeline.audit.append("one", status="ok")
    pipeline.write_manifest(manifest("v1", audit=anchor))
    pipeline.write_state(evolve(STATE, audit=pipeline.audit.append("two", status="ok")))
    assert sorted(source for source, _ in pipeline.anchors()) == ["manifest v1", "the rollback state"]
    assert pipeline.audit.verify(pipeline.anchors()).intact
    first = pipeline.audit.path.read_bytes().splitlines(keepends=True)[0]
    pipeline.audit.path.write_bytes(first)
    assert "the rollback state" in str(pipeline.audit.verify(pipeline.anchors()).problems[0])


def test_reading_creates_nothing(pipeline: Pipeline) -> None:
    """Reading a new project creates no file."""
    assert (pipeline.read_state(), pipeline.latest_ready(), pipeline.read_manifests()) == (None, None, [])
    assert (pipeline.anchors(), pipeline.protected_snapshots()) == ([], set())
    assert not pipeline.was_prepared_since(pipeline.lineage())
    assert not os.path.exists(pipeline.root)
