"""Parser of health responses: ok, degraded, failed or unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from release_tasks.core.canonical import excerpt
from release_tasks.core.records import HealthWord
from release_tasks.service.response import HttpResponse

__all__ = ["read_health"]

_MAX_PARTS = 50

# health+json (draft-inadarei-api-health-check) allows these spellings, in any case.
_STATUS: dict[str, HealthWord] = {
    "ok": "ok",
    "pass": "ok",
    "up": "ok",
    "degraded": "degraded",
    "warn": "degraded",
    "fail": "failed",
    "failed": "failed",
    "failing": "failed",
    "error": "failed",
    "down": "failed",
    "out_of_service": "failed",
}


def read_health(response: HttpResponse) -> tuple[HealthWord, str, list[str]]:
    """Return the status of a response, a description of it and the unhealthy parts.

    The known formats are the envelope ``{"ok": true, "data": {"status": ...}}``, a top-level ``status`` as in
    health+json or UP/DOWN, and the text ``ok``. Every other response is ``unknown``.
    """
    payload, problem = _payload(response)
    fields = payload if isinstance(payload, dict) else {}
    data = fields.get("data") if isinstance(fields.get("data"), dict) else fields
    parts = _unhealthy_parts(cast("dict[str, Any]", data))
    if not 200 <= response.status < 300:
        return "failed", f"HTTP {response.status}{_reason(fields)}", parts
    if fields.get("ok") is False:
        return "failed", f"the response has ok: false{_reason(fields)}", parts
    if problem:
        return "unknown", problem, parts
    word = payload if isinstance(payload, str) else cast("dict[str, Any]", data).get("status")
    is_envelope = fields.get("ok", True) is True
    status = _STATUS.get(word.strip().lower()) if isinstance(word, str) and is_envelope else None
    if status is None or (isinstance(payload, str) and status != "ok"):
        return "unknown", f"unknown health response: {_clean(response.text[:1000], 80)!r}", parts
    if status == "ok" and parts:
        status = "degraded"
    cause = f": {'; '.join(parts)}" if parts else _reason(fields) if status != "ok" else ""
    return status, f"status {_clean(str(word))}{cause}", parts


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
        return json.loads(text), None
    except (ValueError, RecursionError):
        return text, None


def _unhealthy_parts(data: dict[str, Any]) -> list[str]:
    parts: dict[str, str] = {}
    for name in ("heartbeat", "dispatcher"):
        if isinstance(data.get(name), dict) and data[name].get("running") is False:
            parts[name] = "not running"
    for name in ("identity", "mcpConfig", "settings", "database"):
        _note_status(parts, name, data.get(name))
    for name, server in _named(data.get("mcpServers")):
        health = server.get("health")
        circuit = health.get("circuit") if isinstance(health, dict) else None
        if circuit in ("open", "half-open"):
            parts[f"mcpServers.{name}"] = f"circuit {circuit}"
        if server.get("state") == "error":
            parts[f"mcpServers.{name}"] = "state error"
    for group in ("checks", "components"):
        for name, check in _named(data.get(group)):
            _note_status(parts, f"{group}.{name}", check)
    for problem in data["problems"] if isinstance(data.get("problems"), list) else []:
        if isinstance(problem, str) and problem.strip():
            # The service's description of a problem is more precise than the part's state.
            part, _, text = problem.partition(": ")
            parts[part] = text
    lines = [f"{part}: {text}" if text else part for part, text in parts.items()]
    return [_clean(line) for line in lines[:_MAX_PARTS]]


def _named(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, entry) for a map of entries, a map of lists of entries, or a list of entries."""
    if isinstance(value, dict):
        for name, entry in value.items():
            for item in entry if isinstance(entry, list) else [entry]:
                if isinstance(item, dict):
                    yield name, item
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield str(item.get("id") or item.get("name") or index), item


def _note_status(parts: dict[str, str], name: str, value: Any) -> None:
    status = value.get("status") if isinstance(value, dict) else None
    if isinstance(status, str) and _STATUS.get(status.lower()) != "ok":
        parts[name] = status


def _reason(fields: dict[str, Any]) -> str:
    for key in ("error", "reason", "message", "detail", "output"):
        value = fields.get(key)
        if isinstance(value, dict):
            value = value.get("message")
        if isinstance(value, str) and value.strip():
            return f" ({_clean(value)})"
    return ""


def _clean(text: str, limit: int = 200) -> str:
    # Control characters and text direction marks must not reach a terminal.
    shown = (letter if letter.isprintable() else " " for letter in text[: 4 * limit])
    return excerpt("".join(shown).strip(), limit)
