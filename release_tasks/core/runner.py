"""Write commands for the GitHub Actions runner, and keep every runner from reading other output as commands.

A runner reads every line that a step prints to stdout or stderr. For GitHub, a line that starts with ``::name``, after
optional white space, is a command when a second ``::`` follows. In the older form, ``##[name]`` anywhere in a line is a
command (github.com/actions/runner, ActionCommand.cs). Azure Pipelines reads ``##vso[name]`` and ``##[name]``, TeamCity
``##teamcity[name]``. GitLab's sections and Travis's folds need control characters, which are never printed.
"""

from __future__ import annotations

import os
import re

__all__ = ["command", "escape_commands", "escape_commands_in_json", "is_github_actions"]

_COMMAND = re.compile(r"(?m)^([^\S\n]*:)(?=:)")
_MARKED_COMMAND = re.compile(r"##(?=(?:vso|teamcity)?\[)", re.IGNORECASE)


def is_github_actions() -> bool:
    """Return whether a GitHub Actions runner reads the output of this process."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def escape_commands(text: str) -> str:
    """Return ``text`` with a space inserted wherever a runner would find a command."""
    return _MARKED_COMMAND.sub("## ", _COMMAND.sub(r"\1 ", text))


def escape_commands_in_json(document: str) -> str:
    """Return the same JSON document, escaped so that no line of it is a command.

    No line of a JSON document starts with a colon, and the other forms can only appear inside a string.
    """
    return _MARKED_COMMAND.sub(r"#\\u0023", document)


def command(name: str, data: str = "", **properties: str) -> str:
    """Return the line of a command, with the characters escaped that would end the command or one of its parts."""
    parts = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{name}{' ' if parts else ''}{parts}::{_escaped(data)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:  # the escape character itself must be the first
        text = text.replace(character, f"%{ord(character):02X}")
    return text
