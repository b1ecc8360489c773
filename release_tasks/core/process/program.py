"""Find out, before a shell command runs, whether its first program exists, and which files the shell would run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.core.similar_path import is_misspelt, suggest_path

__all__ = ["MissingProgram", "find_missing_program", "programs_of"]

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
# For ``programs_of``: what ends a command, words of the shell and programs after which a command follows, and programs
# that run the first file after them.
_SEPARATORS = ";&|()\n"
_KEYWORDS = ("!", "{", "command", "do", "elif", "else", "exec", "if", "then", "time", "until", "while")
_STARTING = ("chrt", "env", "ionice", "nice", "nohup", "setsid", "stdbuf", "timeout")
_INTERPRETER = re.compile(r"(?:.*/)?(?:((?:ba|da|k|z)?sh)|(python[0-9.]*)|node|perl|php|ruby)|\.|source")
_REDIRECTION = re.compile(r"[0-9]*[<>]&[0-9-]*|&>>?|[0-9]*(?:>>?|<)\s*[^\s;&|()<>]+")
_EXPANSION = frozenset("$`*?[~")
_NUMBER = re.compile(r"[0-9.]+[smhd]?")
_MOST_CHARACTERS = 20_000  # of a command that is examined


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


def programs_of(command: str, folder: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the files that ``/bin/sh -c command`` in ``folder`` runs as programs or scripts, where that is certain.

    A name that is looked up in PATH stands for each path that is tried until a file is found. Programs that another one
    starts with the rights of another user (sudo -u) are not among them.
    """
    if len(command) > _MOST_CHARACTERS:
        return []
    try:
        lexer = shlex.shlex(_REDIRECTION.sub(" ", command), posix=True, punctuation_chars=_SEPARATORS)
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
        words = list(lexer)
    except ValueError:  # a quote without its end
        return []
    found: list[Path] = []
    simple: list[str] = []
    for word in [*words, ";"]:
        if set(word) - set(_SEPARATORS):
            simple.append(word)
            continue
        found += _programs_of_simple(simple, folder, environment)
        if len(simple) >= 2 and simple[0] == "cd":
            if _EXPANSION & set(simple[-1]):
                break
            folder = folder / simple[-1]
        simple.clear()
    return list(dict.fromkeys(found))


def _programs_of_simple(words: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the program of a command without separators, and the script that it runs."""
    rest, is_started = list(words), False
    while rest:
        word = rest.pop(0)
        if word.startswith("PATH="):
            return
        if word in _KEYWORDS or re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word):
            continue
        if is_started and (word.startswith("-") or _NUMBER.fullmatch(word)):
            continue
        yield from _tried(word, folder, environment)
        is_started = word.rpartition("/")[2] in _STARTING
        if is_started:
            continue
        if interpreter := _INTERPRETER.fullmatch(word):
            codes = "c" if interpreter[1] else "cm" if interpreter[2] else "epr"
            script = next((each for each in rest if not each.startswith("-") or set(codes) & set(each)), "-")
            if not script.startswith("-") and not _EXPANSION & set(script):
                yield folder / script
        return


def _tried(word: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the paths that a shell tries for the program ``word``, up to the one that exists."""
    if _EXPANSION & set(word):
        return
    if "/" in word:
        yield folder / word
        return
    if _OF_SHELL.fullmatch(word):
        return
    for entry in environment.get("PATH", os.defpath).split(os.pathsep):
        path = folder / entry / word
        yield path
        if os.access(path, os.X_OK):
            return


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
