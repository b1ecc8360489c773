"""The form of a health answer whose meaning is unknown: enough to see whether a later answer is of another kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.records import HealthForm
from release_tasks.core.redact import Redactor
from release_tasks.service.response import HttpResponse

__all__ = ["describe_form", "form_of"]

_MAX_NAMES = 50
_MAX_REDACTED = 2000  # characters of a key, which may have megabytes
_MAX_WORD = 40  # characters; a longer text is no status word
# Values of other keys, such as times and versions, differ from answer to answer.
_STATUS_KEYS = ("status", "state", "health", "healthy", "result")
_JSON = {type(None): "null", str: "a JSON text", list: "a JSON list", dict: "a JSON object"}


def form_of(response: HttpResponse) -> HealthForm:
    """Return the form of a response: HTTP status, media type, kind of the body, keys and status words at its top."""
    body, names, words = _body(response)
    redact = Redactor.of_process().redact_text
    return HealthForm(
        http_status=response.status,
        media_type=excerpt_line(response.content_type.partition(";")[0].strip().lower(), 100),
        body=body,
        names=[_shown(name, redact) for name in sorted(names)[:_MAX_NAMES]],
        words=[_shown(word, redact) for word in sorted(words)[:_MAX_NAMES]],
    )


def _shown(text: str, redact: Callable[[str], str]) -> str:
    # A part at the end that is cut off before the redaction is not shown either.
    return excerpt_line(redact(text[:_MAX_REDACTED]), 100)


def describe_form(form: HealthForm) -> str:
    """Return a form as a part of a sentence: ``HTTP 200 with an empty body``."""
    details = [", ".join(form.words or form.names[:5]), form.media_type if form.body == "a text" else ""]
    detail = "; ".join(filter(None, details))
    return f"HTTP {form.http_status} with {form.body}{f' ({detail})' if detail else ''}"


def _body(response: HttpResponse) -> tuple[str, list[str], list[str]]:
    """Return the kind of a body, the keys of an object, and the words that may say how the service is."""
    if response.is_truncated:
        return "a large body", [], []
    try:
        text = response.body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "a body that is not text", [], []
    if not text:
        return "an empty body", [], []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "a text", [], [text] if _is_word(text) else []
    if isinstance(value, dict):
        inner = value.get("data")
        words = _words(value, "") + (_words(inner, "data.") if isinstance(inner, dict) else [])
        return _JSON[dict], list(value), words
    if isinstance(value, bool):
        return f"JSON {str(value).lower()}", [], []
    is_status = value in (0, 1) if isinstance(value, int | float) else isinstance(value, str) and _is_word(value)
    return _JSON.get(type(value), "a JSON number"), [], [str(value)] if is_status else []


def _words(fields: dict[str, Any], prefix: str) -> list[str]:
    return [
        f"{prefix}{key}: {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in fields.items()
        if isinstance(value, bool) or (key.lower() in _STATUS_KEYS and _is_status(value))
    ]


def _is_status(value: Any) -> bool:
    return isinstance(value, str | int | float) and _is_word(str(value))


def _is_word(text: str) -> bool:
    return len(text) <= _MAX_WORD and text.isprintable() and not text.startswith("<")
