"""The git commit of the project folder, asked of git without any effect on the repository."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.core.owned import exposure_of
from release_tasks.core.printable import one_line
from release_tasks.core.process.answer import Answer, TimedOut, ask
from release_tasks.core.process.command import tool_environment
from release_tasks.core.process.program import programs_of

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
# A repository without some of its objects would fetch them, with the command that its configuration names.
_FETCHES_NOTHING = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
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
    """Ask git for the commit of ``folder``; each call of git takes at most ``timeout`` seconds. Raises nothing.

    In a run as root, git reads no configuration that another user can change, because it may name commands. So changes
    inside a submodule, which has a configuration of its own, do not make the checkout dirty.
    """
    commit = None
    is_root = os.geteuid() == 0
    try:
        if is_root:
            _require_own_program(folder)
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
        if is_root:
            _require_own_configuration(folder, timeout)
        depth = ["--ignore-submodules=dirty"] if is_root else []
        status = _text(_git(folder, timeout, "status", "--porcelain", "--untracked-files=no", *depth))
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
    if os.geteuid() == 0:
        environment |= _FETCHES_NOTHING | _own_configuration(environment)
    command, shown = ["git", *_OPTIONS, *arguments], f"git {' '.join(arguments)}"
    return ask(command, shown=shown, cwd=folder, environment=environment, timeout=timeout, key=_TIMEOUT_KEY)


def _own_configuration(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which git reads the configuration of root, and not of the user who became root."""
    homes = (environment.get("HOME", ""), pwd.getpwuid(0).pw_dir)
    home = next((each for each in homes if os.path.isabs(each) and exposure_of(Path(each)) is None), os.devnull)
    return {"HOME": home, "XDG_CONFIG_HOME": os.path.join(home, ".config")} if home != homes[0] else {"HOME": home}


def _require_own_program(folder: Path) -> None:
    """Raise _Refused if another user can change git, or put a program of that name into a folder of PATH before it."""
    for path in programs_of("git", folder, tool_environment()):
        if path.parent != Path(sys.executable).parent and (exposure := exposure_of(path)) is not None:
            raise _Refused(f"root does not run {path}: {exposure}. {exposure.ways_out()}")


def _require_own_configuration(folder: Path, timeout: float) -> None:
    """Raise _Refused if another user can change a file of configuration that git reads: a filter is a command."""
    found = _git(folder, timeout, "rev-parse", "--show-toplevel", "--git-dir", "--git-common-dir")
    _text(found)
    top, *folders = (folder / line for line in os.fsdecode(found.output).splitlines())
    files = [top / ".git", *(each / name for each in folders for name in ("config", "config.worktree"))]
    listed = _git(folder, timeout, "config", "--list", "--null", "--show-origin")
    _text(listed)
    fields = os.fsdecode(listed.output).split("\0")
    for origin, setting in zip(fields[::2], fields[1::2], strict=False):
        if origin.startswith("file:"):
            file = top / origin.removeprefix("file:")
            name, _, value = setting.partition("\n")
            includes = name.startswith("include") and name.endswith(".path")
            files += [file, file.parent / os.path.expanduser(value)] if includes else [file]
    for file in dict.fromkeys(files):
        if (exposure := exposure_of(file)) is not None:
            raise _Refused(f"its configuration can name commands, and {exposure}. {exposure.ways_out()}")


def _is_without_repository(answer: Answer) -> bool:
    # A repository that is broken has another message, which names its folder.
    return answer.code != 0 and b"not a git repository (or any" in answer.errors


def _text(answer: Answer, *, may_fail: bool = False) -> str:
    """Return the output of git on one line; raises _Refused with its errors when it failed with a reason."""
    reason = one_line(" ".join(os.fsdecode(answer.errors).split()), _LONGEST)
    if answer.code != 0 and (reason or not may_fail):
        raise _Refused(reason or f"git ended with code {answer.code}")
    return one_line(os.fsdecode(answer.output).strip(), _LONGEST)
