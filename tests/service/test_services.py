"""The health endpoints of services in the field: each answer means what its documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.endpoint import ExpectConfig
from release_tasks.config.schema import HealthConfig
from release_tasks.core.options import Duration
from release_tasks.service.expectation import judge_health
from release_tasks.service.response import HttpResponse
from release_tasks.service.wait import poll_health
from tests.service.services import SERVICES, Answer, Service, services_table
from tests.service.test_answers import read
from tests.support.health import Health
from tests.support.project import Project
from tests.support.releases import release

PAGE = Path(__file__).parents[2] / "docs" / "health.md"


def expectation(service: Service) -> ExpectConfig | None:
    return ExpectConfig(**service.expect) if service.expect is not None else None


def meaning(service: Service, answer: Answer, *, expect: bool = True) -> str:
    """Return what an answer of a service is read as, with or without its ``expect``."""
    response = HttpResponse(
        status=answer.status,
        content_type=answer.content_type,
        body=answer.content,
        is_truncated=False,
        elapsed_ms=1,
        url="http://127.0.0.1/health",
    )
    return judge_health(response, expectation(service) if expect else None).status


def test_there_are_enough_services_with_a_source_each() -> None:
    """At least forty, and no name twice."""
    names = [service.name for service in SERVICES]
    assert len(names) >= 40
    assert len(set(names)) == len(names)
    outside = [service for service in SERVICES if service.source.startswith("https://")]
    assert len(outside) >= len(SERVICES) - 3


def test_every_answer_means_what_its_documentation_says() -> None:
    """With the expectation of the service, if it has one."""
    wrong = {
        f"{service.name}: {answer}": found
        for service in SERVICES
        for answer in service.answers
        if (found := meaning(service, answer)) != answer.meaning
    }
    assert not wrong


def test_a_service_has_an_expectation_only_where_it_needs_one() -> None:
    """And without it, a healthy answer with HTTP 2xx is never called failed."""
    for service in SERVICES:
        if service.expect is not None:
            read_alone = [(answer, meaning(service, answer, expect=False)) for answer in service.answers]
            assert any(found != answer.meaning for answer, found in read_alone), service.name
            assert not [
                answer
                for answer, found in read_alone
                if answer.meaning == "ok" and found == "failed" and answer.status < 300
            ]


def test_answers_of_a_real_server_are_read_the_same(health: Health) -> None:
    """Every third answer, and all of the services with an expectation, through a request."""
    pairs = [(service, answer) for service in SERVICES for answer in service.answers]
    for service, answer in [pair for index, pair in enumerate(pairs) if index % 3 == 0 or pair[0].expect]:
        health.status, health.body = answer.status, answer.content
        config = HealthConfig(url=health.url, timeout=Duration(30.0), expect=expectation(service))
        report = poll_health(config, passes=1, deadline=0)
        assert report.status == answer.meaning, (service.name, answer, report)
        assert report.passed == (answer.meaning in ("ok", "degraded")), (service.name, answer, report)


@pytest.mark.parametrize("name", ["Airflow", "Strapi", "Prefect", "Vault", "MinIO"])
def test_a_release_of_a_service_is_ready(project: Project, health: Health, name: str) -> None:
    """The health gate passes each healthy answer, the baseline is readable, and each other answer blocks."""
    service = next(service for service in SERVICES if service.name == name)
    project.overrides |= {"health.url": health.url, "health.deadline": "2s"}
    project.overrides |= {f"health.expect.{key}": value for key, value in (service.expect or {}).items()}
    for number, answer in enumerate(service.answers):
        health.status, health.body = answer.status, answer.content
        manifest = release(project, f"v{number}")
        assert manifest.baseline is not None
        assert manifest.baseline.health == answer.meaning


def test_the_documentation_has_the_services() -> None:
    """docs/health.md contains what ``inv dev.docs`` writes today."""
    assert services_table() in PAGE.read_text()


def test_the_documented_words_have_their_meaning() -> None:
    """The table of words in docs/health.md is what the reader does."""
    rows = re.findall(r"^\| `(ok|degraded|failed|unknown)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    assert {meaning for meaning, _ in rows} == {"ok", "degraded", "failed", "unknown"}
    for expected, listed in rows:
        words: list[Any] = re.findall(r"`([^`]+)`", listed)
        assert words
        for word in words:
            assert read({"status": word}).status == expected, word
            assert read(word.encode()).status == expected, word
