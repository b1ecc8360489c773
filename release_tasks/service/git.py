"""The git commit of the project folder, asked of git without any effect on the repository."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

from release_tasks.core.printable import one_line
from release_tasks.core.process.answer import Answer, TimedOut, ask
from release_tasks.core.process.command import tool_environment

__all__ = ["Checkout", "checkout_of", "git_environment"]

# Git sets these variables for its hooks, where they name the repository of the hook and not that of the project.
# They are those of `git rev-parse --local-env-vars`, without the variables that only carry configuration.
_LOCATION_VARIABLES = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
# The configuration of the repository may name programs for these two, and `git status` would run them.
_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_TIMEOUT_KEY = "release.version_timeout"
_LONGEST = 1000  # characters of an answer in a message


@frozen(kw_only=True)
class Checkout:
    """The commit of a folder, and whether tracked files differ from it; ``problem`` is the reason of an unknown value.

    All three are None in a folder that no git repository contains, and before the first commit.
    """

    commit: str | None = None
    is_dirty: bool | None = None
    problem: str | None = None


class _Refused(Exception):
    """Git did not answer; the message is the reason."""


def git_environment() -> dict[str, str]:
    """Return this process's environment so that git finds the repository of its working folder and only reads it."""
    environment = {name: value for name, value in tool_environment().items() if name not in _LOCATION_VARIABLES}
    # Without it, `git status` writes the index: https://git-scm.com/docs/git-status#_background_refresh
    return {**environment, "GIT_OPTIONAL_LOCKS": "0"}


def checkout_of(folder: Path, timeout: float) -> Checkout:
    """Ask git for the commit of ``folder``; each call of git takes at most ``timeout`` seconds. Raises nothing."""
    commit = None
    try:
        prefix = _git(folder, timeout, "rev-parse", "--show-prefix")
        if _is_without_repository(prefix):
            return Checkout()
        is_below_top = bool(_text(prefix))
        commit = _text(_git(folder, timeout, "rev-parse", "--verify", "--quiet", "HEAD"), may_fail=True) or None
        if commit is None:  # before the first commit
            return Checkout()
        if is_below_top and not _text(_git(folder, timeout, "ls-tree", "HEAD")):
            top = _text(_git(folder, timeout, "rev-parse", "--show-toplevel"))
            return Checkout(problem=f"the git commit is unknown: the repository {top} contains no file of {folder}")
        status = _text(_git(folder, timeout, "status", "--porcelain", "--untracked-files=no"))
    except FileNotFoundError:
        is_checkout = any((parent / ".git").exists() for parent in (folder, *folder.parents))
        return Checkout(problem="the git commit cannot be read: git is not on PATH" if is_checkout else None)
    except (_Refused, OSError, TimedOut) as error:
        what = "the git commit" if commit is None else "the state of the git checkout"
        return Checkout(commit=commit, problem=f"{what} cannot be read: {error}")
    return Checkout(commit=commit, is_dirty=bool(status))


def _git(folder: Path, timeout: float, *arguments: str) -> Answer:
    # Messages are compared and recorded, so they must be the untranslated ones.
    environment = {**git_environment(), "LC_ALL": "C"}
    command, shown = ["git", *_OPTIONS, *arguments], f"git {' '.join(arguments)}"
    return ask(command, shown=shown, cwd=folder, environment=environment, timeout=timeout, key=_TIMEOUT_KEY)


def _is_without_repository(answer: Answer) -> bool:
    # A repository that is broken has another message, which names its folder.
    return answer.code != 0 and b"not a git repository (or any" in answer.errors


def _text(answer: Answer, *, may_fail: bool = False) -> str:
    """Return the output of git on one line; raises _Refused with its errors when it failed with a reason."""
    reason = one_line(" ".join(os.fsdecode(answer.errors).split()), _LONGEST)
    if answer.code != 0 and (reason or not may_fail):
        raise _Refused(reason or f"git ended with code {answer.code}")
    return one_line(os.fsdecode(answer.output).strip(), _LONGEST)
