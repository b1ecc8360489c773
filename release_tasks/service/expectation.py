"""The judgement of an answer by its expectations, or by the known forms of health answers."""

from __future__ import annotations

import json
from typing import Any

from release_tasks.config.endpoint import UNSET, ExpectConfig, KeyPath, Statuses
from release_tasks.core.canonical import excerpt_line
from release_tasks.service.health import HealthReading, read_health
from release_tasks.service.response import HttpResponse, RepeatedKey, parse_json

__all__ = ["judge_health", "unmet_expectation"]

_MISSING = object()
_SUCCESS = Statuses(((200, 299),))


def judge_health(response: HttpResponse, expect: ExpectConfig | None) -> HealthReading:
    """Return what an answer says of the health of the service.

    With ``expect``, an answer is ``ok`` or ``failed``, whatever else is in it.
    """
    if expect is None:
        return read_health(response)
    problem = unmet_expectation(response, expect)
    if problem is not None:
        return HealthReading(status="failed", detail=problem, stated="failed")
    return HealthReading(status="ok", detail=f"HTTP {response.status}, as expected", stated="ok")


def unmet_expectation(answer: HttpResponse, expect: ExpectConfig) -> str | None:
    """Return a message about the first expectation that is not met, or None."""
    code = f"HTTP {answer.status}"
    statuses = expect.status or _SUCCESS
    if not any(low <= answer.status <= high for low, high in statuses):
        return f"{code}, expected {_shown_statuses(statuses)}"
    cut = " (it is too large and was cut off)" if answer.is_truncated else ""
    if expect.text is not None and expect.text not in answer.text:
        return f"{code}, but the body does not contain {expect.text!r}{cut}"
    if expect.json is None and expect.equals is UNSET:
        return None
    try:
        document = parse_json(answer.body)
    except RepeatedKey as error:
        return f"{code}, but the body has the key {excerpt_line(str(error))!r} twice, so it cannot be read"
    except (ValueError, RecursionError):
        return f"{code}, but the body is not JSON{cut}"
    problem = _unmet_field(document, expect.json or KeyPath(()), expect.equals)
    return f"{code}, but {problem}" if problem else None


def _unmet_field(document: Any, path: KeyPath, expected: Any) -> str | None:
    value = _field(document, path)
    if value is _MISSING:
        return f"the body has no field {_shown_path(path)!r}"
    if expected is UNSET or _is_same(value, expected):
        return None
    # A list stands for any of its values; a field that is a list itself was compared first.
    allowed = expected if isinstance(expected, list) and expected else [expected]
    if any(_is_same(value, each) for each in allowed):
        return None
    name = _shown_path(path) if path else "the body"
    return f"{name} is {_short(value)}, expected {' or '.join(_short(each) for each in allowed)}"


def _is_same(value: Any, expected: Any) -> bool:
    # In Python True == 1; in JSON they are different answers.
    return isinstance(value, bool) == isinstance(expected, bool) and bool(value == expected)


def _field(value: Any, path: KeyPath) -> Any:
    for key in path:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return _MISSING
    return value


def _shown_path(path: KeyPath) -> str:
    return ".".join(path) if not any("." in key for key in path) else json.dumps(list(path))


def _shown_statuses(statuses: Statuses) -> str:
    shown = [str(low) if low == high else f"{low} to {high}" for low, high in statuses]
    return " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _short(value: Any) -> str:
    return excerpt_line(json.dumps(value, default=str), 100)
