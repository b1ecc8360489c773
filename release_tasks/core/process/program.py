"""Find out, before a shell command runs, whether its first program exists."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.core.similar_path import is_misspelt, suggest_path

__all__ = ["MissingProgram", "find_missing_program"]

# A word without an expansion, and what may follow it. Anything else is left to the shell.
_WORD = re.compile(r"""(?:[^\s'"\\;&|()<>$`*?\[\]{}~#!]|'[^']*'|"[^"$`\\]*")+(?=[\s;&|]|$)""")
_ASSIGNMENT = re.compile(r"""([A-Za-z_][A-Za-z0-9_]*)=(?:'[^']*'|"[^"`(]*"|[^\s;&|'"()`])*(?:\s+|$)""")
_CHANGE_FOLDER = re.compile(rf"cd\s+(?:--\s+)?({_WORD.pattern})\s*&&\s*")
_STARTERS = ("exec", "nohup")  # the next word is the program
_OF_SHELL = re.compile(
    r"[.:[]|alias|bg|break|builtin|case|cd|command|continue|declare|do|done|echo|elif|else|esac|eval|exit|export|false|"
    r"fc|fg|fi|for|function|getopts|hash|if|in|jobs|kill|let|local|printf|pwd|read|readonly|return|select|set|shift|"
    r"source|test|then|time|times|trap|true|type|typeset|ulimit|umask|unalias|unset|until|wait|while"
)


@frozen(kw_only=True)
class MissingProgram:
    """The reason why the first program of a command cannot be started.

    ``path`` is its path, None for a name that is looked up in PATH. ``is_misspelt``: a similar path exists.
    """

    problem: str
    path: Path | None = None
    is_misspelt: bool = False


def find_missing_program(command: str, folder: Path, environment: Mapping[str, str]) -> MissingProgram | None:
    """Return why ``/bin/sh -c command`` in ``folder`` cannot start its first program.

    None when it can, and when that is not certain: for a variable, a pattern, a builtin of a shell, or ``||``.
    """
    rest = command.strip()
    while True:
        if match := _ASSIGNMENT.match(rest):
            if match[1] == "PATH":
                return None
            rest = rest[match.end() :]
        elif match := _CHANGE_FOLDER.match(rest):
            folder, rest = folder / _unquoted(match[1]), rest[match.end() :]
            if not folder.is_dir():
                problem = f"the folder {folder} does not exist{suggest_path(folder, folder.parent)}"
                return MissingProgram(problem=problem, path=folder, is_misspelt=is_misspelt(folder))
        elif (match := _WORD.match(rest)) and match[0] in _STARTERS:
            rest = rest[match.end() :].lstrip()
            if rest.startswith("-"):
                return None
        else:
            break
    if match is None or _OF_SHELL.fullmatch(match[0]) or "||" in rest:
        return None
    word = _unquoted(match[0])
    return _missing_file(word, folder) if "/" in word else _missing_name(word, environment)


def _missing_file(word: str, folder: Path) -> MissingProgram | None:
    path = folder / word
    if path.is_dir():
        return MissingProgram(problem=f"{word} is a folder", path=path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        problem = f"{word} does not exist{suggest_path(path, folder)}"
        return MissingProgram(problem=problem, path=path, is_misspelt=is_misspelt(path))
    except OSError:  # who runs the command may see more
        return None
    if os.access(path, os.X_OK):
        return None
    return MissingProgram(problem=f"{word} is not executable: chmod +x {word}", path=path)


def _missing_name(word: str, environment: Mapping[str, str]) -> MissingProgram | None:
    path = environment.get("PATH", os.defpath)
    is_known = all(map(os.path.isabs, path.split(os.pathsep)))
    if not is_known or any(name.startswith("BASH_FUNC_") for name in environment) or shutil.which(word, path=path):
        return None
    return MissingProgram(problem=f"the program {word} is not in PATH")


def _unquoted(word: str) -> str:
    return re.sub("['\"]", "", word)
