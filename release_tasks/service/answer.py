"""What a server answered, and why no usable answer came. Without the HTTP library, which most commands never load."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from release_tasks.core.errors import StageFailed

__all__ = ["Answer", "ProbeError", "ProbeErrorKind"]

ProbeErrorKind = Literal["refused", "timeout", "redirect", "tls", "invalid", "other"]


class ProbeError(StageFailed):
    """No usable answer came; ``kind`` says why and ``message`` says it in a sentence."""

    def __init__(self, kind: ProbeErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ProbeErrorKind = kind


@frozen(kw_only=True)
class Answer:
    """What a server answered; ``body`` holds the first bytes only when it ``is_truncated``."""

    status: int
    content_type: str
    body: bytes
    is_truncated: bool
    elapsed_ms: int
    url: str

    @property
    def text(self) -> str:
        """The body as text, with U+FFFD for what is not UTF-8."""
        return self.body.decode("utf-8", "replace")
