"""The arguments of a process as one text, without secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from release_tasks.core.redact import REDACTED, Redactor, replaced
from release_tasks.core.redaction.values import as_bytes

__all__ = ["shown_arguments"]

# In a text they end a value; inside an argument they are part of it.
_ENDS = re.compile(rb"[\s\"'`\\<>;,&|()\[\]{}]")


def shown_arguments(words: Sequence[str]) -> str:
    """Return the arguments in one text with a space between them, each secret redacted to the end of its argument."""
    redactor, values = Redactor.of_process(), [as_bytes(word) for word in words]
    # The same bytes without an end of a value inside an argument: ``--password 'a b'`` is one value.
    spans = redactor.spans(b" ".join(_ENDS.sub(b"x", value) if value else b"x" for value in values))
    parts, at = [], 0
    for value in values:
        end = at + max(len(value), 1)
        inner = [(max(a, at) - at, min(b, end) - at) for a, b in spans if a < end and b > at]
        parts.append(redactor.redact(replaced(value, inner) if value else value))
        at = end + 1
    text = b" ".join(parts).decode("utf-8", "replace")
    # A secret option of a program is known by its neighbours too.
    return redactor.redact_text(" ".join(text.split())).replace(f"{REDACTED}{REDACTED}", REDACTED)
