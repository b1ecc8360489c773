"""Remove secrets from a document of our own, and keep what people and programs must be able to type.

The password of a database may be ``database``, and a field or an asset may have that name. So a field with an id, a
name of the configuration, a digest, a time or a status is exact: its form is checked where it is typed or configured,
and no text of others gets into it. Every other value is a text.
"""

from __future__ import annotations

import re
from typing import Any

from release_tasks.core.ids import is_valid_id
from release_tasks.core.redact import Redactor

__all__ = ["document_without_secrets"]

_FIELD = re.compile(
    r"(?:.*[a-z0-9])?(?:Ids?|At|Digest|Assets|Snapshots?|Checks)\Z"
    r"|(?:manifestPath|metadataPath|id|key|gates?|needs|asset|notice|task|failedTask|channel|subsystem|release|plugin|sequence"
    r"|digest|sha256|checksum|hash|prev|gitCommit|lineage|time|at"
    r"|status|event|kind|action|occasion|stated|how|state|verdict|severity|direction)\Z"
)
_FORM = re.compile(r"[\w.:+/-]{1,200}\Z", re.ASCII)
_OF_OTHERS = "diagnostics"  # of a gate: the values and their names may come from a service or a plugin


def document_without_secrets(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of JSON values with every text redacted, but without a change to names and exact values."""
    return {key: _value(item, key) for key, item in document.items()}


def _value(value: Any, field: str) -> Any:
    if isinstance(value, str):
        return value if _FIELD.match(field) and _FORM.match(value) else Redactor.of_process().redact_text(value)
    if isinstance(value, dict) and field == _OF_OTHERS:
        return Redactor.of_process().redact_values(value)
    if isinstance(value, dict):
        return {_name(key): _value(item, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(item, field) for item in value]
    return value


def _name(key: str) -> str:
    """Return the name of a field, an asset or a gate; the name of a table may be any text."""
    return key if is_valid_id(key) and Redactor().redact_text(key) == key else Redactor.of_process().redact_text(key)
