"""A health that cannot be read is named at prepare and at once, and the same form is never called down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.records import Baseline
from release_tasks.service.form import describe_form, form_of
from release_tasks.service.response import HttpResponse
from release_tasks.service.wait import poll_health
from release_tasks.stages.diagnose.guide import diagnose_service
from tests.support.health import Health
from tests.support.project import Project
from tests.support.releases import release
from tests.support.rollback import roll_back

# A body, and another body of the same form.
SAME: dict[str, tuple[Any, Any]] = {
    "empty": (b"", b" \n"),
    "page": (b"<html>42 users</html>", b"<html>43 users</html>"),
    "object": ({"uptime": 1, "time": "03:00"}, {"time": "03:01", "uptime": 2}),
    "list": ([1], []),
    "number": (b"17", b"18"),
    "words": ({"healthy": True, "data": {"state": "green"}}, {"data": {"state": "green"}, "healthy": True}),
    "not text": (b"\xff\xfe\x00", b"\xff\x00"),
}
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "empty, page": (b"", b"<html></html>"),
    "false": ({"healthy": True}, {"healthy": False}),
    "inner false": ({"data": {"up": True}}, {"data": {"up": False}}),
    "word": ({"status": "green"}, {"status": "red"}),
    "text": (b"fine", b"broken"),
    "bare": (b"true", b"false"),
    "keys": ({"uptime": 1}, {"error": "x"}),
    "status number": ({"status": 200}, {"status": 500}),
    "inner status number": ({"data": {"state": 1}}, {"data": {"state": 0}}),
    "one, zero": (b"1", b"0"),
}


def response(body: Any, status: int = 200, content_type: str = "application/json; charset=utf-8") -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(
        status=status, content_type=content_type, body=data, is_truncated=False, elapsed_ms=1, url="http://x"
    )


@pytest.mark.parametrize("case", SAME)
def test_values_that_change_have_the_same_form(case: str) -> None:
    """Times, counts, and the order of keys."""
    first, second = SAME[case]
    assert form_of(response(first)) == form_of(response(second))


@pytest.mark.parametrize("case", DIFFERENT)
def test_values_that_may_be_a_status_have_another_form(case: str) -> None:
    """A word or a boolean may say that the service is down."""
    first, second = DIFFERENT[case]
    assert form_of(response(first)) != form_of(response(second))
    assert form_of(response(first)) != form_of(response(first, status=204))
    assert form_of(response(first)) != form_of(response(first, content_type="text/html"))


def test_a_form_is_described_and_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored in the manifest."""
    monkeypatch.setenv("API_TOKEN", "s3cr3t-value-here")
    assert describe_form(form_of(response(b""))) == "HTTP 200 with an empty body"
    assert describe_form(form_of(response({"b": 1, "a": 2}))) == "HTTP 200 with a JSON object (a, b)"
    assert "s3cr3t" not in str(form_of(response({"status": "s3cr3t-value-here", "s3cr3t-value-here": True})))


@pytest.fixture
def unreadable(project: Project, health: Health) -> Project:
    """Return a project whose health endpoint answers 200 with an empty body, and that has a release."""
    project.overrides |= {"health.url": health.url, "health.deadline": "20s"}
    health.body = b""
    return project


def test_prepare_says_that_health_cannot_be_read(unreadable: Project, health: Health) -> None:
    """The manifest has the form, and its diagnostics what it means."""
    manifest = release(unreadable, "v1")
    assert manifest.status == "ready"
    assert manifest.baseline is not None
    assert manifest.baseline.form == form_of(response(b""))
    (note,) = manifest.diagnostics
    assert note.startswith(f"Health at {health.url} answers HTTP 200 with an empty body, which does not say whether")
    assert unreadable.pipeline.get_manifest("v1").diagnostics == manifest.diagnostics
    assert "answers HTTP 200" in Path(manifest.manifest_path).read_text()


def test_the_same_form_is_not_called_down(unreadable: Project) -> None:
    """The rollback ends restored, at once, with a warning; the next one is a noop; diagnose has a note only."""
    release(unreadable, "v1")
    good = unreadable.content()
    unreadable.damage()
    started = time.monotonic()
    outcome = roll_back(unreadable)
    assert (outcome.status, unreadable.content()) == ("restored", good)
    assert time.monotonic() - started < 15
    assert "health cannot be read; the answer has the same form as at prepare" in outcome.diagnostics[0]
    assert outcome.health_check is not None
    assert (outcome.health_check.passed, outcome.health_check.status) == (True, "unknown")
    assert roll_back(unreadable).status == "noop"
    _, diagnosis = diagnose_service(unreadable.settings)
    assert "unreadable-health" in [finding.key for finding in diagnosis.findings if finding.severity == "note"]
    assert not [finding for finding in diagnosis.findings if "unhealthy" in finding.key]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"<html>error</html>"), (200, {"error": "x"})])
def test_another_form_fails_and_is_named_at_once(unreadable: Project, health: Health, status: int, body: Any) -> None:
    """HTTP 500 is waited for until the deadline, because it is read; a form that cannot be read is not."""
    release(unreadable, "v1")
    unreadable.damage()
    unreadable.overrides["health.deadline"] = "1s" if status == 500 else "60s"
    health.status, health.body = status, body
    started = time.monotonic()
    outcome = roll_back(unreadable)
    assert outcome.status == "failed"
    assert time.monotonic() - started < 30
    assert ("this form cannot be read" in outcome.diagnostics[0]) == (status == 200)


@pytest.mark.parametrize("before", [None, Baseline(), Baseline(health="unknown")])
def test_an_unreadable_answer_is_not_waited_for(unreadable: Project, health: Health, before: Baseline | None) -> None:
    """Three of one form in a row, with any kind of baseline that is no readable one."""
    report = poll_health(unreadable.settings.release.health, passes=1, before=before)
    assert (report.passed, report.status, report.attempts, health.requests) == (False, "unknown", 3, 3)
    assert "this form cannot be read" in report.detail


@pytest.mark.parametrize("case", ["readable before", "a word"])
def test_an_answer_that_may_change_is_waited_for(project: Project, health: Health, case: str) -> None:
    """A page while the service starts, or the word starting: the healthy answer after it passes."""
    project.overrides |= {"health.url": health.url, "health.deadline": "20s"}
    before = Baseline(health="ok") if case == "readable before" else None
    health.body = b"<html>please wait</html>" if case == "readable before" else {"status": "starting"}

    def change(_: object) -> None:
        if health.requests == 6:
            health.body = {"status": "ok"}

    report = poll_health(project.settings.release.health, passes=2, before=before, emit=change)
    assert (report.passed, report.status, report.attempts) == (True, "ok", 8)


@pytest.mark.parametrize("body", [{"k" * 1_000_000: True}, {"k" * 1_000_000: 1}, {f"k{n}": True for n in range(5000)}])
def test_a_form_is_short_whatever_the_answer_is(body: dict[str, Any]) -> None:
    """The manifest contains it."""
    form = form_of(response(body))
    assert len(form.names) <= 50 and len(form.words) <= 50
    assert all(len(text) <= 100 for text in (*form.names, *form.words))
