"""The expected answer of an endpoint: the answers of real services, and mistakes in ``expect``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from release_tasks.config.endpoint import UNSET, ExpectConfig
from release_tasks.service.expectation import judge_health, unmet_expectation
from release_tasks.service.response import HttpResponse


def response(body: Any, status: int = 200) -> HttpResponse:
    """Return an answer; a body that is not bytes is sent as JSON."""
    return HttpResponse(
        status=status,
        content_type="application/json",
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        is_truncated=False,
        elapsed_ms=1,
        url="http://127.0.0.1/health",
    )


PREFECT = {"equals": True}
VAULT = {"status": [200, 429, 472, 473], "json": "sealed", "equals": False}
ELASTIC = {"json": "status", "equals": ["green", "yellow"]}
SPRING = {"json": ["components", "db.main", "status"], "equals": "UP"}


@pytest.mark.parametrize(
    ("expect", "status", "body", "problem"),
    [
        (PREFECT, 200, True, None),
        (PREFECT, 200, False, "the body is false, expected true"),
        (PREFECT, 200, 1, "the body is 1, expected true"),
        (PREFECT, 200, b"true!", "the body is not JSON"),
        ({"json": "status", "equals": "ok"}, 200, b'{"status":"error","status":"ok"}', "the key 'status' twice"),
        (VAULT, 200, {"sealed": False}, None),
        (VAULT, 429, {"sealed": False, "standby": True}, None),
        (VAULT, 473, {"sealed": False}, None),
        (VAULT, 503, {"sealed": True}, "expected 200, 429, 472 or 473"),
        (ELASTIC, 200, {"status": "yellow"}, None),
        (ELASTIC, 200, {"status": "red"}, 'status is "red", expected "green" or "yellow"'),
        (ELASTIC, 200, {"status": None}, 'status is null, expected "green" or "yellow"'),
        (ELASTIC, 200, [], "the body has no field 'status'"),
        (SPRING, 200, {"components": {"db.main": {"status": "UP"}}}, None),
        (SPRING, 200, {"components": {"db": {"main": 1}}}, "the body has no field"),
        ({"json": "error", "equals": None}, 200, {"error": None}, None),
        ({"json": "error", "equals": None}, 200, {"error": "disk"}, 'error is "disk", expected null'),
        ({"json": "error", "equals": None}, 200, {}, "the body has no field 'error'"),
        ({"json": "error"}, 200, {"error": None}, None),
        ({"json": "queue", "equals": [0, None]}, 200, {"queue": None}, None),
        ({"json": "errors", "equals": []}, 200, {"errors": []}, None),
        ({"json": "errors", "equals": []}, 200, {"errors": ["x"]}, 'errors is ["x"], expected []'),
        ({"json": "tags", "equals": ["a", "b"]}, 200, {"tags": ["a", "b"]}, None),
        ({"json": []}, 200, {"any": 1}, None),
        ({"json": ["nodes", 0, "up"], "equals": True}, 200, {"nodes": [{"up": True}]}, None),
        ({"status": "2xx"}, 204, b"", None),
        ({"status": ["2xx", "401-403"]}, 402, b"", None),
        ({"status": ["2xx", "401-403"]}, 404, b"", "expected 200 to 299 or 401 to 403"),
        ({"text": "pong"}, 200, b"pong\n", None),
        ({"text": "pong"}, 200, b"<html>", "the body does not contain 'pong'"),
        ({}, 500, b"ok", "expected 200 to 299"),
    ],
)
def test_an_expectation_alone_decides(expect: dict[str, Any], status: int, body: Any, problem: str | None) -> None:
    """No word in the body counts besides; what was found and what was expected are named."""
    answer = response(body, status)
    found = unmet_expectation(answer, ExpectConfig(**expect))
    assert (found is None) == (problem is None), found
    assert (problem or "") in (found or "")
    reading = judge_health(answer, ExpectConfig(**expect))
    assert (reading.status, reading.detail) == ("failed" if problem else "ok", found or f"HTTP {status}, as expected")


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", [], [None], [[]], {}, {"a": [1, None]}])
def test_every_json_value_equals_itself(value: Any) -> None:
    """Also a list, which stands for each of its values besides."""
    path: Any = ["a.b", 0]
    answer = response({"a.b": [value]})
    assert unmet_expectation(answer, ExpectConfig(json=path, equals=value)) is None
    assert unmet_expectation(answer, ExpectConfig(json=path, equals=["other", value])) is None
    assert unmet_expectation(answer, ExpectConfig(json=path, equals="other")) is not None


def test_an_unset_value_is_not_null() -> None:
    assert ExpectConfig().equals is UNSET
    assert ExpectConfig(equals=None).reads_body


_WRONG: dict[str, list[Any]] = {
    "status": [99, 600, "6xx", "200..299", "299-200", [], [True], {}, "ok", 200.5],
    "json": ["", True, 1.5, ["a", None], {"a": 1}, ["a", ["b"]]],
    "equals": [{1: 2}, [{3}]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in _WRONG.items() for value in values])
def test_a_mistake_in_an_expectation_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        ExpectConfig(**{key: value})


@pytest.mark.parametrize("depth", [300, *range(960, 1000), 100_000])
def test_a_deeply_nested_answer_is_no_error_of_this_program(depth: int) -> None:
    """Python can read a value near the limit of its recursion, and cannot compare or print it."""
    expect = ExpectConfig(equals="ok")
    for body in (b"[" * depth + b"]" * depth, b'{"data":' * depth + b"1" + b"}" * depth):
        assert unmet_expectation(response(body), expect) == "HTTP 200, but the body is not JSON"
