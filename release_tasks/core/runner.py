"""The runner of GitHub Actions takes commands from every line that a step prints; only ours may be commands.

It reads stdout and stderr alike. A line that begins with ``::name`` after any white space is a command when a second
``::`` follows; in the older form ``##[name]`` is one anywhere in a line (github.com/actions/runner, ActionCommand.cs).
"""

from __future__ import annotations

import os
import re

__all__ = ["command", "inert", "inert_json", "is_listening"]

_COMMAND = re.compile(r"(?m)^([^\S\n]*:)(?=:)")
_OLDER_COMMAND = "##["


def is_listening() -> bool:
    """Say whether such a runner reads what this process prints."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def inert(text: str) -> str:
    """Return ``text``, where a runner listens with a space in every place that would make a line of it a command."""
    if not is_listening():
        return text
    return _COMMAND.sub(r"\1 ", text.replace("\r", "\n")).replace(_OLDER_COMMAND, "## [")


def inert_json(document: str) -> str:
    """Return the same JSON document, spelled such that no line of it is a command.

    No line of JSON begins with a colon, and the older form can only stand inside of a text.
    """
    return document.replace(_OLDER_COMMAND, "##\\u005b") if is_listening() else document


def command(name: str, data: str = "", **properties: str) -> str:
    """Return the line of a command, with everything escaped that would end it or a part of it."""
    parts = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{name}{' ' if parts else ''}{parts}::{_escaped(data)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:  # the sign of escaping itself comes first
        text = text.replace(character, f"%{ord(character):02X}")
    return text
