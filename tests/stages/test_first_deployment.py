"""``release.prepare --first``: a release before which neither the service nor its state exist."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from release_tasks.core.errors import UsageError
from release_tasks.core.records import PreparedRelease, RollbackOutcome
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import roll_back
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.watch.watching import watch_release
from tests.support.health import Health
from tests.support.project import Project
from tests.support.watched_service import SetClock


@pytest.fixture
def new(project: Project, free_port: int) -> Project:
    """Return a project whose service and state do not exist yet."""
    shutil.rmtree(project.state)
    project.overrides["health"] = {
        "url": f"http://127.0.0.1:{free_port}/health",
        "timeout": "2s",
        "deadline": "100ms",
        "interval": "20ms",
    }
    project.overrides["gates"] = {"build": {"command": "true"}, "api": {"http": "health", "needs": ["build"]}}
    return project


def prepare(project: Project, release_id: str = "v1", *, first: bool = True) -> PreparedRelease:
    return prepare_release(project.settings, release_id=release_id, first=first)


def deploy(project: Project) -> None:
    """Create the state as the service does at its first start."""
    project._write_state("wal")


def go_back(project: Project) -> RollbackOutcome:
    return roll_back(project.settings)


def test_the_ordinary_prepare_prints_the_way_out(new: Project) -> None:
    """It stays blocked, names what is missing, and names the command."""
    manifest = prepare(new, first=False)
    assert manifest.status == "blocked"
    assert any("database" in line and "does not exist" in line for line in manifest.diagnostics)
    assert manifest.diagnostics[-1].endswith("inv release.prepare --first")
    assert diagnose_service(new.settings)[1].status == "act"


def test_the_way_out_is_not_printed_where_it_is_none(new: Project, health: Health) -> None:
    """A service that answers, and a release that exists, are no first deployment."""
    new.overrides["health"]["url"] = health.url
    manifest = prepare(new, first=False)
    assert manifest.status == "blocked" and "--first" not in " ".join(manifest.diagnostics)
    deploy(new)
    assert prepare(new, "v2", first=False).status == "ready"
    new.database.unlink()
    health.status = 500
    assert "--first" not in " ".join(prepare(new, "v3", first=False).diagnostics)


def test_a_first_release_records_what_does_not_exist(new: Project) -> None:
    """Gates that ask the service are skipped with the reason; the others run; absent assets are recorded."""
    manifest = prepare(new)
    assert manifest.status == "ready" and manifest.first_deployment
    checks = {check.id: (check.status, check.detail) for check in manifest.preflight.checks}
    assert checks["build"][0] == "passed"
    assert checks["api"] == ("skipped", "not asked: the service is not deployed yet (--first)")
    assert not any(artifact.exists for artifact in manifest.artifacts)
    text = " ".join(manifest.diagnostics)
    assert "not deployed yet: api" in text and "recorded as absent: database, identity, mcp, extra" in text
    event = new.pipeline.audit.verify().events[-2]
    assert (event["event"], event["firstDeployment"]) == ("prepare.ready", True)
    assert new.pipeline.get_manifest("v1").first_deployment


def test_other_gates_still_block_a_first_release(new: Project) -> None:
    """``--first`` excuses only what asks the service."""
    new.overrides["gates.build"] = {"command": "exit 3"}
    manifest = prepare(new)
    assert manifest.status == "blocked" and "exit code 3" in manifest.diagnostics[0]
    assert prepare(new, "v1").status == "blocked"  # a blocked release does not count as one


@pytest.mark.parametrize("asked", ["health", "gate"])
@pytest.mark.parametrize(("status", "body"), [(200, {"status": "ok"}), (503, {"status": "DOWN"}), (401, b"no")])
def test_it_is_refused_where_the_service_answers(
    new: Project, health: Health, asked: str, status: int, body: Any
) -> None:
    """Healthy or not: a service that answers was deployed already."""
    health.status, health.body = status, body
    if asked == "health":
        new.overrides["health"]["url"] = health.url
    else:
        del new.overrides["health"]["url"]
        new.overrides["gates"] = {"api": {"http": health.url, "expect": {"status": 200}}}
    with pytest.raises(UsageError, match=f"the service answers at .* with HTTP {status}, so this is not the first"):
        prepare(new)
    assert not new.pipeline.manifests.exists()


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_the_answer_of_a_proxy_is_no_answer_of_the_service(new: Project, health: Health, status: int) -> None:
    """A proxy in front of the service answers before the service exists."""
    health.status, health.body, health.content_type = status, b"<html>Bad Gateway</html>", "text/html"
    new.overrides["health"]["url"] = health.url
    assert prepare(new).status == "ready"


def test_it_is_refused_after_a_release(new: Project) -> None:
    """An ordinary release, a first one, and a snapshot without its manifest."""
    prepare(new)
    with pytest.raises(UsageError, match=r"deploy again; or go back with inv release\.rollback --snapshot v1_snapshot"):
        prepare(new, "v2")
    (new.pipeline.manifests / "v1.json").unlink()
    with pytest.raises(UsageError, match="release v1 was prepared already"):
        prepare(new, "v2")
    (new.pipeline.manifests / "v1.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        prepare(new, "v2")


def test_a_rollback_brings_the_absence_back_and_says_so(new: Project) -> None:
    """The state that the deploy created is removed, and the safety snapshot has it; no service is started or asked."""
    new.overrides["restart.command"] = f"touch {new.folder}/started"
    prepare(new)
    deploy(new)
    created = new.content()
    plan = plan_rollback(new.settings)
    assert {change.key for change in plan.changes if change.action == "remove"} == {"database", "identity", "mcp"}
    assert "before the first deployment" in plan.diagnostics[0] and "would start nothing" in plan.diagnostics[0]
    assert not any("restart the service with" in line for line in plan.diagnostics)
    outcome = go_back(new)
    assert outcome.status == "restored", outcome.diagnostics
    assert sorted(outcome.removed_assets) == ["database", "identity", "mcp"]
    assert any("before the first deployment" in line and "did not ask health" in line for line in outcome.diagnostics)
    assert not any(path.exists() for path in (new.database, new.identity, new.mcp))
    assert outcome.restart_command is None and not (new.folder / "started").exists()
    assert go_back(new).status == "noop"
    findings = [finding.key for finding in diagnose_service(new.settings)[1].findings]
    assert findings[0] == "not-deployed"
    del new.overrides["health"]["url"]
    new.overrides["restart.command"] = "true"
    assert roll_back(new.settings, outcome.safety_snapshot_id).status == "restored"
    assert new.content() == created


def test_after_that_rollback_the_next_deployment_is_the_first_again(new: Project) -> None:
    """Going back and ``--first`` again may be repeated."""
    for release_id in ("v1", "v2", "v3"):
        assert prepare(new, release_id).status == "ready"
        deploy(new)
        with pytest.raises(UsageError, match="was prepared with it already"):
            prepare(new, "other")
        assert go_back(new).status == "restored"


def test_a_rollback_under_a_running_service_warns(new: Project, health: Health) -> None:
    """The service would write its state again."""
    prepare(new)
    deploy(new)
    new.overrides["health"]["url"] = health.url
    assert any("End it" in line for line in plan_rollback(new.settings).diagnostics)
    outcome = go_back(new)
    assert outcome.status == "restored"
    assert any(line.startswith("Warning: the service answers at") for line in outcome.diagnostics)


def test_a_watch_does_not_remove_the_first_state_by_itself(new: Project) -> None:
    """A degraded first deployment is left to a person, with the command to type."""
    manifest = prepare(new)
    assert manifest.snapshot is not None
    deploy(new)
    created = new.content()
    new.overrides["watch"] = {"for": "3m", "interval": "10s", "rollback": True}
    report = watch_release(new.settings, clock=SetClock())
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    text = " ".join(report.diagnostics)
    assert "was the first deployment" in text
    assert f"inv release.rollback --snapshot {manifest.snapshot.snapshot_id}" in text
    assert new.content() == created


def test_an_unhealthy_first_deployment_is_diagnosed_as_one(new: Project) -> None:
    """There is no old code to deploy."""
    prepare(new)
    first = diagnose_service(new.settings)[1].first
    assert first is not None and first.key == "first-unhealthy"


def test_a_first_snapshot_can_be_drilled(new: Project) -> None:
    """The rehearsal of nothing leaves nothing."""
    prepare(new)
    outcome = run_drill(new.settings)
    assert outcome.status == "passed", outcome.diagnostics


def test_a_state_that_exists_before_the_first_deployment_is_captured(new: Project) -> None:
    """A database that an operator created comes back."""
    deploy(new)
    before = new.content()
    assert prepare(new).status == "ready"
    new.damage()
    assert go_back(new).status == "restored"
    assert new.content() == before
