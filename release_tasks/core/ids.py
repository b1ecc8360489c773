"""The form of a valid id. A valid id can be part of a path and never points outside its folder."""

from __future__ import annotations

import re

from release_tasks.core.errors import UsageError

__all__ = ["is_valid_id", "require_id"]

_LONGEST = 128
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")


def is_valid_id(text: str) -> bool:
    """Return whether ``text`` is a letter or digit, then up to 127 letters, digits, dots, underscores or dashes."""
    return _ID.fullmatch(text) is not None


def require_id(text: str, what: str, most: int = _LONGEST) -> str:
    """Return ``text`` when it is a valid id of at most ``most`` characters.

    Otherwise raises UsageError; ``what`` names the id in the message.
    """
    if not is_valid_id(text) or len(text) > most:
        raise UsageError(
            f"{what} {text!r} is not a valid id: use letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit, at most {most} characters."
        )
    return text
