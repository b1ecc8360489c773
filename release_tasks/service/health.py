"""Reader of health answers: ok, degraded, failed or unknown."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.records import HealthWord
from release_tasks.service.form import describe_form, form_of
from release_tasks.service.response import HttpResponse, RepeatedKey, parse_json
from release_tasks.service.statements import Statement, own_statements, part_statements, reason_of, worst
from release_tasks.service.words import read_value

__all__ = ["HealthReading", "read_health"]

_MAX_PARTS = 50
_NO_CONTENT = 204
_KNOWN = (
    '(known: HTTP 204, ok, up, true, {"status": "ok"}, {"healthy": true}). Set release.health.expect to what a healthy '
    "answer has"
)


@frozen(kw_only=True)
class HealthReading:
    """What a health answer says. ``parts`` names the parts that are not well, one line each.

    ``stated`` is what the answer says of the whole service; None when only its parts have a status. ``status`` counts
    the parts too, so an answer that says ok is ``degraded`` when one of them is not.
    """

    status: HealthWord
    detail: str
    parts: list[str] = field(factory=list)
    stated: HealthWord | None = None


def read_health(response: HttpResponse) -> HealthReading:
    """Return what a response says: every known word is read, and the worst one decides.

    An HTTP status other than 2xx is ``failed`` whatever the body is, and 204 is ``ok``. A text or a JSON value is read
    by its words, see ``service/words.py`` and ``service/statements.py``. Every other response is ``unknown``.
    """
    payload, problem = _payload(response)
    fields = payload if isinstance(payload, dict) else {}
    own = _own(payload)
    inner = [part for part in part_statements(payload) if part.word] if isinstance(payload, dict | list) else []
    parts = _lines(fields, inner)
    if not 200 <= response.status < 300:
        return HealthReading(status="failed", detail=f"HTTP {response.status}{reason_of(fields)}", parts=parts)
    if response.status == _NO_CONTENT:
        return HealthReading(status="ok", detail=f"HTTP {response.status}", stated="ok")
    if problem:
        return HealthReading(status="unknown", detail=f"{problem} {_KNOWN}", parts=parts)
    stated = _stated(own)
    status = stated or worst(inner) or "unknown"
    if status == "unknown":
        form = describe_form(form_of(response))
        detail = excerpt_line(f"{form} does not say whether the service is healthy {_KNOWN}", 600)
    else:
        status = "degraded" if status == "ok" and parts else status
        detail = _detail(fields, own, parts)
    return HealthReading(status=status, detail=detail, parts=parts, stated=stated)


def _payload(response: HttpResponse) -> tuple[Any, str | None]:
    if response.is_truncated:
        return None, f"the response is larger than {len(response.body) >> 10} KiB"
    try:
        text = response.body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None, "the response is not UTF-8 text"
    if not text:
        return None, "the response is empty"
    try:
        return parse_json(text), None
    except RepeatedKey as error:
        return None, f"the key {excerpt_line(str(error))!r} is there twice, so the response cannot be read"
    except (ValueError, RecursionError):
        return text, None


def _own(payload: Any) -> list[Statement]:
    """Return what a response says of the whole service."""
    if isinstance(payload, dict):
        return own_statements(payload)
    word = read_value(payload) if isinstance(payload, str | bool) else None
    return [Statement("", "status", payload, word)] if word else []


def _stated(own: list[Statement]) -> HealthWord | None:
    """Return what a response says of the whole service: ``unknown`` for an unknown word, None when it says nothing."""
    word = worst(own)
    return "unknown" if word in ("ok", None) and any(each.word is None for each in own) else word


def _detail(fields: dict[str, Any], own: list[Statement], parts: list[str]) -> str:
    """Return the statement that decides, with the parts that are not well or the reason of the service."""
    decisive = max(own, key=Statement.rank, default=None)
    cause = "; ".join(parts) or (reason_of(fields) if decisive is None or decisive.word != "ok" else "")
    if decisive is None:
        return cause or "every part is ok"
    return f"{excerpt_line(decisive.whole)}{': ' if parts else ''}{cause}"


def _lines(fields: dict[str, Any], inner: list[Statement]) -> list[str]:
    """Return a line for each part that is not well."""
    parts = {part.path: f"{part.shown}{part.reason}" for part in inner if part.word != "ok"}
    data = fields.get("data") if isinstance(fields.get("data"), dict) else fields
    problems = data.get("problems") if isinstance(data, dict) else None
    for problem in problems if isinstance(problems, list) else []:
        if isinstance(problem, str) and problem.strip():
            # The service's description of a problem is more precise than the part's state.
            part, _, text = problem.partition(": ")
            parts[part] = text
    lines = [f"{part}: {text}" if text else part for part, text in parts.items()]
    return [excerpt_line(line) for line in lines[:_MAX_PARTS]]
