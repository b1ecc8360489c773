"""Write commands for the GitHub Actions runner, and keep the runner from reading other output as commands.

The runner reads every line that a step prints to stdout or stderr. A line that starts with ``::name``, after optional
white space, is a command when a second ``::`` follows. In the older form, ``##[name]`` anywhere in a line is a command
(github.com/actions/runner, ActionCommand.cs).
"""

from __future__ import annotations

import os
import re

__all__ = ["command", "escape_commands", "escape_commands_in_json", "is_github_actions"]

_COMMAND = re.compile(r"(?m)^([^\S\n]*:)(?=:)")
_OLDER_COMMAND = "##["


def is_github_actions() -> bool:
    """Return whether a GitHub Actions runner reads the output of this process."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def escape_commands(text: str) -> str:
    """Return ``text``; when a runner reads it, with a space inserted wherever the runner would find a command."""
    if not is_github_actions():
        return text
    return _COMMAND.sub(r"\1 ", text.replace("\r", "\n")).replace(_OLDER_COMMAND, "## [")


def escape_commands_in_json(document: str) -> str:
    """Return the same JSON document, escaped so that no line of it is a command.

    No line of a JSON document starts with a colon, and the older form can only appear inside a string.
    """
    return document.replace(_OLDER_COMMAND, "##\\u005b") if is_github_actions() else document


def command(name: str, data: str = "", **properties: str) -> str:
    """Return the line of a command, with the characters escaped that would end the command or one of its parts."""
    parts = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{name}{' ' if parts else ''}{parts}::{_escaped(data)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:  # the escape character itself must be the first
        text = text.replace(character, f"%{ord(character):02X}")
    return text
