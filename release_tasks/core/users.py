"""How messages name the users of the machine."""

from __future__ import annotations

import contextlib
import pwd

__all__ = ["user_name"]


def user_name(uid: int) -> str:
    """Return how a message names a user: by name and number, by number alone when the system has no name."""
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"
