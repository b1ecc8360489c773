"""The statement next to each manifest: its content, and detection of a release that does not match it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.attestation.statement import gates_digest
from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.pipeline import Pipeline, manifest_bytes
from release_tasks.archive.seal import sealed_document
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.records import Check, Manifest
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.project import Project
from tests.support.releases import PASSED, good_release, release

FAILED = Check(id="tests", subsystem="tests", status="failed", detail="exit 1")
ADVISORY = evolve(FAILED, id="lint", advisory=True)
SKIPPED = evolve(FAILED, id="gui", status="skipped")


def statement_bytes(project: Project, release_id: str = "v1") -> bytes:
    data: bytes = project.pipeline.statement_path(release_id).read_bytes()
    return data


def statement(project: Project, release_id: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(statement_bytes(project, release_id))
    return document


def verdict(project: Project, release_id: str = "v1") -> AttestationVerdict:
    (found,) = (
        each for each in verify_attestations(project.settings, project.pipeline) if each.release_id == release_id
    )
    return found


def rewrite_statement(project: Project, change: Callable[[dict[str, Any]], object], release_id: str = "v1") -> None:
    """Change the statement of a release and keep its form."""
    document = statement(project, release_id)
    change(document)
    project.pipeline.statement_path(release_id).write_bytes(canonical_bytes(document) + b"\n")


def test_statement_lists_every_file_of_a_release_by_sha256(project: Project) -> None:
    """Each subject except the digest of the snapshot is a file below the pipeline folder."""
    manifest = release(project)
    document = statement(project)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}
    assert manifest.snapshot is not None
    snapshot = manifest.snapshot.snapshot_id
    assert subjects.pop(snapshot) == manifest.snapshot.digest
    place = f"snapshots/{snapshot}"
    assert set(subjects) == {
        "manifests/v1.json",
        f"{place}/metadata.json",
        f"{place}/assets/database/app.db",
        f"{place}/assets/mcp/mcp.json",
    }
    for name, digest in subjects.items():
        assert hashlib.sha256((project.pipeline.root / name).read_bytes()).hexdigest() == digest
    assert verdict(project).status == "unsigned"


@pytest.mark.parametrize(
    ("checks", "result", "passed", "warned", "failed"),
    [
        ((PASSED,), "PASSED", ["build"], [], []),
        ((PASSED, ADVISORY), "WARNED", ["build"], ["lint"], []),
        ((PASSED, FAILED, SKIPPED, ADVISORY), "FAILED", ["build"], ["lint"], ["tests", "gui"]),
    ],
)
def test_predicate_lists_each_gate_by_its_result(
    project: Project, checks: tuple[Check, ...], result: str, passed: list[str], warned: list[str], failed: list[str]
) -> None:
    """Ready and blocked releases both have a statement."""
    release(project, "v1", *checks)
    predicate = statement(project)["predicate"]
    assert (predicate["result"], predicate["passedTests"]) == (result, passed)
    assert (predicate["warnedTests"], predicate["failedTests"]) == (warned, failed)
    assert predicate["configuration"] == [
        {"name": "release.gates", "digest": {"sha256": gates_digest(project.settings)}}
    ]
    assert verdict(project).status == "unsigned"


def test_blocked_release_with_passed_gates_has_result_failed(project: Project) -> None:
    """A policy that requires PASSED must not accept it."""
    project.mcp.unlink()
    assert release(project).status == "blocked"
    predicate = statement(project)["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", ["release.prepare"])


@pytest.mark.slow
def test_commit_is_a_subject_only_when_the_work_tree_is_clean(project: Project) -> None:
    """With an uncommitted change the gates checked other files."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=project.folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, text=True, check=True)
    release(project, "clean")
    assert {"name": "git", "digest": {"gitCommit": head.stdout.strip()}} in statement(project, "clean")["subject"]
    subprocess.run(["git", "add", "state/mcp.json"], cwd=project.folder, check=True)
    release(project, "dirty")
    assert "gitCommit" not in statement_bytes(project, "dirty").decode()
    assert {each.status for each in verify_attestations(project.settings, project.pipeline)} == {"unsigned"}


def test_statement_has_the_url_of_the_ci_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of the statement finds the log by it."""
    for name, value in (("SERVER_URL", "https://github.com"), ("REPOSITORY", "o/r"), ("RUN_ID", "7")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    release(project, "v1")
    assert statement(project)["predicate"]["url"] == "https://github.com/o/r/actions/runs/7"
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("CI_JOB_URL", "https://gitlab.com/o/r/-/jobs/9")
    release(project, "v2")
    assert statement(project, "v2")["predicate"]["url"] == "https://gitlab.com/o/r/-/jobs/9"


def test_equal_gates_have_an_equal_digest_in_any_folder(tmp_path: Path) -> None:
    """Other gates have another digest."""
    gates: dict[str, Any] = {
        "a": {"command": "true", "cwd": "sub"},
        "b": {"http": "http://x/", "expect": {"json": "k", "equals": {"x": [1, 2.5, None], "y": "z"}}},
    }
    first, second, other = (
        gates_digest(load_settings({"release": {"gates": {**gates, **more}}}, tmp_path / name))
        for name, more in (("one", {}), ("two", {}), ("one", {"a": {"command": "false", "cwd": "sub"}}))
    )
    assert first == second != other


def replace_statement_by_pipe(project: Project) -> None:
    path = project.pipeline.statement_path("v1")
    path.unlink()
    os.mkfifo(path)


def rewrite_manifest(project: Project) -> None:
    manifest = project.pipeline.read_manifests()[0].manifest
    assert manifest is not None
    project.pipeline.manifest_path("v1").write_bytes(manifest_bytes(evolve(manifest, app_version="9")))


def alter_digest(document: dict[str, Any]) -> None:
    document["subject"][0]["digest"]["sha256"] = "0" * 64


ALTERATIONS: dict[str, tuple[Callable[[Project], object], str, str]] = {
    "manifest": (lambda p: p.pipeline.manifest_path("v1").write_bytes(b"{}"), "manifests/v1.json", "was altered"),
    "manifest truncated": (
        lambda p: p.pipeline.manifest_path("v1").write_text("{"),
        "manifests/v1.json",
        "was altered",
    ),
    "manifest rewritten": (
        rewrite_manifest,
        "manifests/v1.json",
        "was altered",
    ),
    "statement's digest": (lambda p: rewrite_statement(p, alter_digest), "manifests/v1.json", "was altered"),
    "statement's result": (
        lambda p: rewrite_statement(p, lambda d: d["predicate"].update(result="FAILED")),
        "manifests/v1.json.intoto.jsonl",
        "result differs from the manifest",
    ),
    "subject added": (
        lambda p: rewrite_statement(p, lambda d: d["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}})),
        "x",
        "differs from the statement of the release",
    ),
    "subject taken away": (
        lambda p: rewrite_statement(p, lambda d: d["subject"].pop()),
        "/assets/mcp/mcp.json",
        "differs from",
    ),
    "no statement": (
        lambda p: p.pipeline.statement_path("v1").unlink(),
        "manifests/v1.json.intoto.jsonl",
        "is missing",
    ),
    "no JSON": (lambda p: p.pipeline.statement_path("v1").write_text("x"), "manifests/v1.json.intoto.jsonl", "refused"),
    "another document": (
        lambda p: p.pipeline.statement_path("v1").write_text('{"_type": "https://in-toto.io/Statement/v0.1"}'),
        "manifests/v1.json.intoto.jsonl",
        "it is not an in-toto Statement",
    ),
    "two subjects of one name": (
        lambda p: rewrite_statement(p, lambda d: d["subject"].append(d["subject"][0])),
        "manifests/v1.json.intoto.jsonl",
        "one of its subjects is invalid",
    ),
    "a pipe for a statement": (
        replace_statement_by_pipe,
        "manifests/v1.json.intoto.jsonl",
        "named pipe",
    ),
}


@pytest.mark.parametrize("alteration", list(ALTERATIONS))
def test_release_that_does_not_match_its_statement_is_detected(project: Project, alteration: str) -> None:
    """The finding names the file, and both digests where two exist."""
    change, file, expected = ALTERATIONS[alteration]
    release(project)
    change(project)
    found = verdict(project)
    assert found.status == "damaged"
    finding = str(found.findings[0])
    assert found.findings[0].file.endswith(file) and expected in finding, finding
    if "altered" in expected:
        assert finding.count("sha256:") == 2, finding


def test_other_snapshot_under_the_same_id_is_detected(project: Project) -> None:
    """The snapshot is valid, but it is not the released one."""
    manifest = release(project)
    assert manifest.snapshot is not None
    folder = project.pipeline.catalogue.path(manifest.snapshot.snapshot_id)
    project.mcp.write_text('{"mcpServers": {"forged": {}}}')
    other = release(project, "v2")
    assert other.snapshot is not None
    forged = project.pipeline.catalogue.path(other.snapshot.snapshot_id)
    document = json.loads((forged / "metadata.json").read_text())
    document["snapshotId"] = manifest.snapshot.snapshot_id
    del document["checksum"]
    (folder / "metadata.json").write_text(json.dumps(sealed_document(document)))
    (folder / "assets/mcp/mcp.json").write_bytes((forged / "assets/mcp/mcp.json").read_bytes())
    files = {finding.file for finding in verdict(project).findings}
    place = f"snapshots/{manifest.snapshot.snapshot_id}"
    assert {manifest.snapshot.snapshot_id, f"{place}/metadata.json", f"{place}/assets/mcp/mcp.json"} <= files


def test_snapshot_removed_by_retention_is_no_finding(project: Project) -> None:
    """The digest of the manifest is still verified."""
    project.overrides["retention"] = 1
    for release_id in ("v1", "v2"):
        good_release(project, release_id)
    assert len(project.pipeline.catalogue.published()[0]) == 1
    assert [each.status for each in verify_attestations(project.settings, project.pipeline)] == ["unsigned", "unsigned"]


def test_release_from_before_statements_is_no_finding(project: Project) -> None:
    """It was written by an earlier version or by the older tool."""
    manifest = release(project)
    project.pipeline.statement_path("v1").unlink()
    project.pipeline.manifest_path("v1").write_bytes(manifest_bytes(evolve(manifest, attestation=None)))
    assert verdict(project).status == "none"


def test_manifest_of_an_earlier_attempt_keeps_its_statement(project: Project) -> None:
    """Each attempt has its own statement."""
    for detail in ("one", "two"):
        release(project, "v1", evolve(FAILED, detail=detail))
    release(project)
    names = sorted(path.name for path in project.pipeline.manifests.glob("v1*"))
    assert names == [f"v1{earlier}.json{end}" for earlier in ("", "~1", "~2") for end in ("", ".intoto.jsonl")]
    assert not project.pipeline.has_leftovers()
    assert verdict(project).status == "unsigned"


def test_statement_without_a_manifest_is_removed(project: Project) -> None:
    """A kill between the two writes leaves one; the next command removes it."""
    release(project)
    orphan = project.pipeline.statement_path("v2")
    orphan.write_bytes(statement_bytes(project))
    assert project.pipeline.has_leftovers()
    assert recover(project.settings).removed == [orphan.name]
    assert not orphan.exists() and verdict(project).status == "unsigned"


def test_statement_renamed_before_its_manifest_is_renamed_back(project: Project) -> None:
    """A kill between the two renames leaves it under the other name."""
    release(project, "v1", FAILED)
    final = project.pipeline.statement_path("v1")
    earlier = final.with_name("v1~1.json.intoto.jsonl")
    final.rename(earlier)
    assert project.pipeline.has_leftovers()
    recover(project.settings)
    assert (final.exists(), earlier.exists()) == (True, False)
    assert verdict(project).status == "unsigned"


def test_statement_that_cannot_be_written_blocks_the_release(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published, and the message names the file."""
    real = Pipeline.write_statement

    def full(self: Pipeline, release_id: str, data: bytes) -> None:
        monkeypatch.setattr(Pipeline, "write_statement", real)
        raise OSError(28, "No space left on device", str(self.statement_path(release_id)))

    monkeypatch.setattr(Pipeline, "write_statement", full)
    manifest = release(project)
    assert manifest.status == "blocked"
    assert "v1.json.intoto.jsonl: No space left on device" in manifest.diagnostics[0]
    assert project.pipeline.catalogue.published() == ([], [])
    assert project.leftovers() == [] and verdict(project).status == "unsigned"


def test_manifest_that_cannot_be_written_leaves_no_statement(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready and blocked attempts both fail; the next command removes the leftovers."""

    def full(self: Pipeline, manifest: Manifest) -> None:
        raise OSError(28, "No space left on device", "manifests")

    with monkeypatch.context() as patch, pytest.raises(Exception, match="No space left"):
        patch.setattr(Pipeline, "write_manifest", full)
        release(project)
    recover(project.settings)
    assert list(project.pipeline.manifests.iterdir()) == []
    assert release(project).status == "ready"


def test_one_release_can_be_verified_alone(project: Project) -> None:
    """By its snapshot, as ``release.verify --snapshot`` does."""
    first, second = release(project, "v1"), release(project, "v2")
    assert first.snapshot is not None and second.snapshot is not None
    found = verify_attestations(project.settings, project.pipeline, second.snapshot.snapshot_id)
    assert [each.release_id for each in found] == ["v2"]


@pytest.mark.slow
def test_statements_are_valid_for_the_in_toto_library(project: Project) -> None:
    """Its protobuf types parse each statement and validate it."""
    json_format = importlib.import_module("google.protobuf.json_format")  # the package has no types
    library = importlib.import_module("in_toto_attestation.v1.statement")
    release(project, "v1")
    release(project, "v2", PASSED, FAILED)
    for release_id in ("v1", "v2"):
        message = json_format.Parse(statement_bytes(project, release_id), library.spb.Statement())
        library.Statement.copy_from_pb(message).validate()
