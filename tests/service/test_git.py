"""The commit of a project: it is the project's own, whatever the environment says, and asking for it writes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.service.git import Checkout, checkout_of

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Return a function that runs git in a folder, with no configuration of the machine."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def run(folder: Path, *arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.fixture
def project(tmp_path: Path, git: Git) -> Path:
    """A checkout with one commit."""
    return _repository(tmp_path / "project", git)


def _repository(folder: Path, git: Git) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "tracked").write_text(folder.name)
    git(folder, "add", "tracked")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def _write_script(path: Path, commands: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)


def test_commit_and_changes_are_read(project: Path, git: Git) -> None:
    """Only a change of a tracked file counts."""
    commit = git(project, "rev-parse", "HEAD")
    (project / "other").write_text("1")
    assert checkout_of(project, 10) == Checkout(commit=commit, is_dirty=False)
    (project / "tracked").write_text("2")
    assert checkout_of(project, 10) == Checkout(commit=commit, is_dirty=True)


def test_no_repository_and_no_commit_are_no_problem(tmp_path: Path, git: Git) -> None:
    """Many projects are deployed without git."""
    assert checkout_of(tmp_path, 10) == Checkout()
    git(tmp_path, "init", "-q")
    assert checkout_of(tmp_path, 10) == Checkout()


@pytest.mark.parametrize("variables", [("GIT_DIR", "GIT_WORK_TREE"), ("GIT_DIR",), ("GIT_INDEX_FILE",)])
def test_variables_of_a_git_hook_are_ignored(
    project: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch, variables: tuple[str, ...]
) -> None:
    """A hook of another repository runs with its location in the environment."""
    other = _repository(tmp_path / "other", git)
    values = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git/index",
    }
    expected = Checkout(commit=git(project, "rev-parse", "HEAD"), is_dirty=False)
    for name in variables:
        monkeypatch.setenv(name, str(values[name]))
    assert checkout_of(project, 10) == expected


def test_a_real_hook_sees_the_commit_of_the_project(project: Path, tmp_path: Path, git: Git) -> None:
    """A hook of a bare repository, as on a server that deploys after a push."""
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(project), str(bare))
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import pathlib, sys, release_tasks.service.git as git\n"
        "pathlib.Path(sys.argv[2]).write_text(str(git.checkout_of(pathlib.Path(sys.argv[1]), 10)))\n"
    )
    hook = f"export PYTHONPATH={Path(__file__).parents[2]}\nexec {sys.executable} {probe} {project} {tmp_path / 'seen'}"
    _write_script(bare / "hooks/post-receive", hook)
    (project / "tracked").write_text("2")
    git(project, "commit", "-qam", "second")
    git(project, "push", "-q", str(bare), "HEAD")
    expected = Checkout(commit=git(project, "rev-parse", "HEAD"), is_dirty=False)
    assert (tmp_path / "seen").read_text() == str(expected)


def test_the_index_is_not_written(project: Path) -> None:
    """A touched file makes `git status` refresh the index, unless git gets the option against it."""
    os.utime(project / "tracked", (1, 1))
    index = project / ".git/index"
    before = (index.read_bytes(), index.stat().st_mtime_ns)
    assert checkout_of(project, 10).is_dirty is False
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


@pytest.mark.parametrize("key", ["core.fsmonitor", "core.hooksPath"])
def test_the_configuration_of_the_repository_runs_no_program(project: Path, git: Git, key: str) -> None:
    """A repository can name programs that git runs when it looks at the files."""
    _write_script(project / "run/post-index-change", f"echo ran >> {project / 'ran'}")
    git(project, "config", key, str(project / ("run" if key == "core.hooksPath" else "run/post-index-change")))
    os.utime(project / "tracked", (1, 1))
    assert checkout_of(project, 10).is_dirty is False
    assert not (project / "ran").exists()


def test_a_refusal_of_git_is_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git reads no checkout of another owner; its message has the command that allows it."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    checkout = checkout_of(project, 10)
    assert (checkout.commit, checkout.is_dirty) == (None, None)
    assert checkout.problem is not None
    assert checkout.problem.startswith(
        f"the git commit cannot be read: fatal: detected dubious ownership in repository at '{project}'"
    )
    assert checkout.problem.endswith(f"git config --global --add safe.directory {project}")


def test_a_repository_that_is_broken_is_reported(project: Path) -> None:
    """The worktree that the file .git names is gone."""
    (project / "sub").mkdir()
    (project / "sub/.git").write_text("gitdir: /no/such/place\n")
    assert checkout_of(project / "sub", 10) == Checkout(
        problem="the git commit cannot be read: fatal: not a git repository: /no/such/place"
    )


def test_a_folder_that_the_repository_does_not_contain_has_no_commit(project: Path, git: Git) -> None:
    """The home folder may be a repository of its own; its commit says nothing of the project in it."""
    (project / "srv").mkdir()
    assert checkout_of(project / "srv", 10) == Checkout(
        problem=f"the git commit is unknown: the repository {project} contains no file of {project}/srv"
    )
    (project / "srv/app.py").write_text("1")
    git(project, "add", "srv")
    git(project, "commit", "-q", "-m", "second")
    assert checkout_of(project / "srv", 10) == Checkout(commit=git(project, "rev-parse", "HEAD"), is_dirty=False)


def test_worktrees_submodules_and_detached_heads_have_a_commit(project: Path, tmp_path: Path, git: Git) -> None:
    """Each has its own HEAD."""
    commit = git(project, "rev-parse", "HEAD")
    git(project, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    assert checkout_of(tmp_path / "tree", 10) == Checkout(commit=commit, is_dirty=False)
    outer = _repository(tmp_path / "outer", git)
    git(outer, "submodule", "--quiet", "add", str(project), "inner")
    assert checkout_of(outer / "inner", 10) == Checkout(commit=commit, is_dirty=False)


def test_a_bare_repository_has_a_commit_and_no_files(project: Path, tmp_path: Path, git: Git) -> None:
    """Whether files changed is unknown, and the reason is reported."""
    git(tmp_path, "clone", "-q", "--bare", str(project), "bare.git")
    checkout = checkout_of(tmp_path / "bare.git", 10)
    assert (checkout.commit, checkout.is_dirty) == (git(project, "rev-parse", "HEAD"), None)
    assert checkout.problem is not None and "must be run in a work tree" in checkout.problem


def test_a_machine_without_git_is_reported_only_in_a_checkout(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project without git needs no git."""
    monkeypatch.setattr("release_tasks.core.process.command.search_path", lambda environment: str(tmp_path))
    assert checkout_of(tmp_path, 10) == Checkout()
    assert checkout_of(project, 10) == Checkout(problem="the git commit cannot be read: git is not on PATH")
