"""More than one question about the health: ``release.health.also``, and http gates where no health URL is set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from release_tasks.core.errors import ConfigError
from release_tasks.core.records import PreparedRelease
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.diagnose.summary import summary
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import roll_back
from release_tasks.stages.rollback.outcome import NOT_ASKED
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.watch.watching import WatchReport, watch_release
from tests.support.health import Health
from tests.support.project import Project
from tests.support.watched_service import SetClock


@pytest.fixture
def api(make_health: Callable[[], Health]) -> Health:
    """Serve the API of the service, whose health endpoint is static."""
    served = make_health()
    served.body = {"experiments": []}
    return served


@pytest.fixture
def tracked(project: Project, health: Health, api: Health) -> Project:
    """Return a project whose health endpoint always says ok, with a gate on its API that is asked too."""
    project.overrides["health.url"] = health.url
    project.overrides["health.deadline"] = "300ms"
    project.overrides["health.also"] = ["api"]
    project.overrides["gates.api"] = {"http": api.url.replace("health", "api"), "expect": {"json": "experiments"}}
    project.overrides["watch"] = {"for": "3m", "interval": "10s"}
    return project


@pytest.fixture
def ungated(tracked: Project) -> Project:
    """Return the same project without a health URL."""
    del tracked.overrides["health.url"], tracked.overrides["health.also"]
    return tracked


def prepare(project: Project) -> PreparedRelease:
    manifest = prepare_release(project.settings, release_id="v1")
    assert manifest.status == "ready", manifest.diagnostics
    return manifest


def watch(project: Project) -> WatchReport:
    return watch_release(project.settings, clock=SetClock())


@pytest.mark.parametrize("kind", ["tracked", "ungated"])
def test_a_watch_sees_an_api_that_fails(kind: str, api: Health, request: pytest.FixtureRequest) -> None:
    """The health endpoint is static, and its API answers 503."""
    project: Project = request.getfixturevalue(kind)
    prepare(project)
    assert watch(project).status == "healthy"
    api.status = 503
    report = watch(project)
    assert report.status == "degraded"
    assert "gate api failed, HTTP 503" in report.reasons[0]
    assert report.samples[0].detail.startswith("gate api: HTTP 503")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tracked", "ungated"])
def test_a_rollback_asks_all_of_them(kind: str, api: Health, request: pytest.FixtureRequest) -> None:
    """After the restore, before a noop, and in the plan."""
    project: Project = request.getfixturevalue(kind)
    prepare(project)
    project.damage()
    assert any("(gate api)" in line for line in plan_rollback(project.settings).diagnostics)
    api.body = {"no": "such field"}
    outcome = roll_back(project.settings)
    assert outcome.status == "failed" and outcome.health_check is not None
    assert outcome.health_check.gate == "api"
    assert any("gate api: HTTP 200, but the body has no field 'experiments'" in line for line in outcome.diagnostics)
    assert roll_back(project.settings).status == "failed"  # live already, and the API still fails
    api.body = {"experiments": []}
    outcome = roll_back(project.settings)
    assert outcome.status == "noop" and outcome.health_check is not None and outcome.health_check.passed


@pytest.mark.parametrize("kind", ["tracked", "ungated"])
def test_a_diagnosis_asks_all_of_them(kind: str, api: Health, request: pytest.FixtureRequest) -> None:
    """The finding names the gate; without a fault the gate is named as passed."""
    project: Project = request.getfixturevalue(kind)
    prepare(project)
    signals, diagnosis = diagnose_service(project.settings)
    assert diagnosis.first is None
    assert "api" in {name: detail for name, _, detail in summary(signals)}["health"]
    assert "nobody-asked" not in [finding.key for finding in diagnosis.findings]
    api.status = 500
    first = diagnose_service(project.settings)[1].first
    assert first is not None and first.key == "unhealthy" and "gate api: HTTP 500" in first.detail


def test_the_health_endpoint_still_counts(tracked: Project, health: Health) -> None:
    """A gate that passes does not hide an endpoint that fails."""
    prepare(tracked)
    health.body = {"status": "down"}
    report = watch(tracked)
    assert report.status == "degraded" and "health failed" in report.reasons[0]


@pytest.mark.slow
def test_a_noop_is_not_earned_by_one_answer_of_a_service_that_flaps(tracked: Project, api: Health) -> None:
    """Every second answer fails, whichever comes first."""
    prepare(tracked)
    tracked.damage()
    assert roll_back(tracked.settings).status == "restored"
    for answers in ([200, 503] * 3, [503, 200] * 3):
        api.answers = iter(answers)
        assert roll_back(tracked.settings).status == "failed"


def test_a_service_that_nothing_asks_is_not_called_healthy(project: Project) -> None:
    """Without a health URL and an http gate, each answer says that the service was not asked."""
    prepare(project)
    project.damage()
    assert NOT_ASKED in roll_back(project.settings).diagnostics
    outcome = roll_back(project.settings)
    assert outcome.status == "noop" and NOT_ASKED in outcome.diagnostics
    plan = plan_rollback(project.settings)
    assert "No health URL is set, and no gate with a URL." in plan.diagnostics
    assert not any("while the service is healthy" in line for line in plan.diagnostics)
    assert "nobody-asked" in [finding.key for finding in diagnose_service(project.settings)[1].findings]


def test_an_advisory_gate_is_asked_only_by_name(ungated: Project) -> None:
    """Where no health URL is set, the gates that block are asked."""
    ungated.overrides["gates.extra"] = {"http": "http://127.0.0.1:9/", "advisory": True}
    assert [question.gate for question in ungated.settings.release.questions] == ["api"]
    ungated.overrides["health.also"] = ["extra"]
    assert [question.gate for question in ungated.settings.release.questions] == ["extra"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("apo", "there is no gate 'apo' (did you mean 'api'?)"),
        ("always", "'always' is not an http gate with a URL of its own"),
        ("asks", "'asks' is not an http gate with a URL of its own"),
    ],
)
def test_a_name_that_cannot_be_asked_is_refused(tracked: Project, name: str, problem: str) -> None:
    """The message has the key and the reason."""
    tracked.overrides["gates.asks"] = {"http": "health"}
    tracked.overrides["health.also"] = ["api", name]
    with pytest.raises(ConfigError) as error:
        _ = tracked.settings
    assert f"release.health.also: {problem}" in str(error.value)


def test_the_baseline_is_about_all_of_them(tracked: Project, api: Health) -> None:
    """A gate that fails at prepare time is no news later."""
    manifest = prepare(tracked)
    assert manifest.baseline is not None and manifest.baseline.health == "ok"
    assert manifest.baseline.latency_ms is not None
    assert api.requests == 4  # the gate, and three for the baseline


@pytest.mark.slow
def test_a_gate_that_takes_long_makes_no_service_slow(tracked: Project, api: Health) -> None:
    """The latency is that of the health endpoint, at prepare and in every sample; a login may take a second."""
    tracked.overrides["health.timeout"] = "10s"
    tracked.overrides["watch.latency_floor"] = "800ms"
    prepare(tracked)
    api.delay = 1.0
    signals, diagnosis = diagnose_service(tracked.settings)
    assert not {"slow", "unhealthy"} & {finding.key for finding in diagnosis.findings}
    assert signals.health is not None and min(attempt.latency_ms for attempt in signals.health.history) < 800


@pytest.mark.slow
def test_a_gate_is_asked_with_its_own_time_limit(tracked: Project, api: Health) -> None:
    """Its limit is longer than that of the health endpoint, so its slow answer counts."""
    tracked.overrides["health.timeout"] = "200ms"
    tracked.overrides["gates.api"] = {**tracked.overrides["gates.api"], "timeout": "20s"}
    api.delay = 0.5
    prepare(tracked)
    assert "unhealthy" not in [finding.key for finding in diagnose_service(tracked.settings)[1].findings]
