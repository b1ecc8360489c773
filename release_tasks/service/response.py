"""The response to a request, or its error. Does not import the HTTP library, which most commands never need."""

from __future__ import annotations

import json
from typing import Any, Literal

from attrs import frozen

from release_tasks.core.canonical import exceeds_depth
from release_tasks.core.errors import StageFailed

__all__ = ["HttpResponse", "ProbeError", "ProbeErrorKind", "RepeatedKey", "parse_json"]

_MAX_DEPTH = 200

ProbeErrorKind = Literal["refused", "timeout", "redirect", "tls", "invalid", "other"]


class ProbeError(StageFailed):
    """The request got no usable response; ``kind`` is the reason and ``message`` describes it."""

    def __init__(self, kind: ProbeErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ProbeErrorKind = kind


class RepeatedKey(ValueError):
    """A JSON object has a key twice, so parsers differ in what it says; ``args`` has the key."""


def parse_json(body: str | bytes) -> Any:
    """Return the value of a JSON body; raises RepeatedKey, ValueError and RecursionError.

    A value near the limit of Python's recursion could be read, and neither compared nor shown.
    """
    value = json.loads(body, object_pairs_hook=_unique_keys)
    if isinstance(value, (dict, list)) and exceeds_depth(value, _MAX_DEPTH):
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise RepeatedKey(name)
        fields[name] = value
    return fields


@frozen(kw_only=True)
class HttpResponse:
    """The response of a server. When ``is_truncated``, ``body`` contains only the first bytes."""

    status: int
    content_type: str
    body: bytes
    is_truncated: bool
    elapsed_ms: int
    url: str

    @property
    def text(self) -> str:
        """The body as text, with U+FFFD for invalid UTF-8."""
        return self.body.decode("utf-8", "replace")
