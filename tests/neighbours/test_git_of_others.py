"""Git of root runs no command that a file of another user configures; the commit is recorded all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from release_tasks.service.git import checkout_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to act as two users"
    ),
]

NEIGHBOUR = 4711  # of no account


@frozen
class Place:
    """A checkout of root, in which ``state`` is a submodule, and a home folder. The filter leaves ``mark``."""

    project: Path
    home: Path
    mark: Path

    @property
    def filter(self) -> str:
        return f'[filter "x"]\n\tclean = touch {self.mark}; cat\n'

    def git(self, folder: Path, *words: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *words]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    def configure(self, file: Path) -> None:
        """Let the neighbour own ``file`` and name the filter in it; the checkout uses it for a file that changed."""
        file.write_text((file.read_text() if file.exists() else "") + self.filter)
        os.chown(file, NEIGHBOUR, NEIGHBOUR)
        (self.project / ".gitattributes").write_text("tracked filter=x\n")
        (self.project / "tracked").write_text("2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith(("GIT_", "SUDO_"))]:
        monkeypatch.delenv(name)
    made = Place(tmp_path / "project", tmp_path / "home", tmp_path / "ran")
    made.home.mkdir()
    monkeypatch.setenv("HOME", str(made.home))
    for folder in (made.project, made.project / "state"):
        folder.mkdir()
        made.git(folder, "init", "-q")
        (folder / "tracked").write_text("1")
    made.git(made.project / "state", "add", "tracked")
    made.git(made.project / "state", "commit", "-q", "-m", "one")
    made.git(made.project, "-c", "advice.addEmbeddedRepo=false", "add", "tracked", "state")
    made.git(made.project, "commit", "-q", "-m", "one")
    return made


def give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, NEIGHBOUR, NEIGHBOUR)


def in_a_submodule(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    state = place.project / "state"
    place.configure(state / ".git" / "config")
    (place.project / ".gitattributes").unlink()
    (place.project / "tracked").write_text("1")
    (state / ".gitattributes").write_text("tracked filter=x\n")
    (state / "tracked").write_text("2")
    give(state)


def in_the_home_of_the_neighbour(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.configure(place.home / ".gitconfig")
    give(place.home)


def in_the_repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.configure(place.project / ".git" / "config")


def in_an_included_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.git(place.project, "config", "include.path", "../included")
    place.configure(place.project / "included")


def in_a_file_that_root_names(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.configure(place.project / "named")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(place.project / "named"))


def in_a_repository_of_the_user_who_became_root(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git of root trusts the repositories of that user."""
    place.configure(place.project / ".git" / "config")
    give(place.project)
    monkeypatch.setenv("SUDO_UID", str(NEIGHBOUR))


Plant = Callable[[Place, pytest.MonkeyPatch], None]


@pytest.mark.parametrize("plant", [in_a_submodule, in_the_home_of_the_neighbour])
def test_git_ignores_the_commands_of_others(place: Place, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """They are of no use to root, who has a configuration of its own."""
    plant(place, monkeypatch)
    found = checkout_of(place.project, 10)
    assert found.commit is not None and found.problem is None
    assert found.is_dirty is (plant is in_the_home_of_the_neighbour)
    assert not place.mark.exists()
    place.git(place.project, "status", "--porcelain")
    assert place.mark.exists()


@pytest.mark.parametrize(
    "plant",
    [
        in_the_repository,
        in_an_included_file,
        in_a_file_that_root_names,
        in_a_repository_of_the_user_who_became_root,
    ],
)
def test_git_refuses_the_commands_of_others(place: Place, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """The commit is known. Whether files differ from it is unknown, with the file and what to type."""
    plant(place, monkeypatch)
    found = checkout_of(place.project, 10)
    assert found.commit is not None and found.is_dirty is None and found.problem is not None
    assert found.problem.startswith("the state of the git checkout cannot be read: its configuration can name commands")
    assert "belongs to uid 4711. Choose one: run inv as that user: sudo -u '#4711' inv ..." in found.problem
    assert not place.mark.exists()
    place.git(place.project, "status", "--porcelain")
    assert place.mark.exists()


def test_an_included_file_that_the_neighbour_may_create_is_refused(place: Place) -> None:
    """It does not exist when its name is read, and may exist a moment later."""
    (place.project / "inbox").mkdir()
    give(place.project / "inbox")
    place.git(place.project, "config", "include.path", str(place.project / "inbox" / "config"))
    assert "inbox belongs to uid 4711" in (checkout_of(place.project, 10).problem or "")


def test_a_git_of_the_neighbour_is_not_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when PATH only names a folder of the neighbour before that of git."""
    (place.home / "git").write_text(f"#!/bin/sh\ntouch {place.mark}\n")
    os.chmod(place.home / "git", 0o755)
    give(place.home)
    monkeypatch.setenv("PATH", f"{place.home}:{os.environ['PATH']}")
    found = checkout_of(place.project, 10)
    assert (found.problem or "").startswith(f"the git commit cannot be read: root does not run {place.home}/git: ")
    assert not place.mark.exists()


def test_git_of_root_fetches_nothing(place: Place) -> None:
    """A partial clone without an object would ask its remote, with the command of its configuration."""
    place.git(place.project, "remote", "add", "far", f"ext::touch {place.mark}")
    for key, value in (
        ("remote.far.promisor", "true"),
        ("protocol.ext.allow", "always"),
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "far"),
    ):
        place.git(place.project, "config", key, value)
    tree = place.git(place.project, "rev-parse", "HEAD^{tree}")
    (place.project / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    assert checkout_of(place.project, 10).problem is not None
    assert not place.mark.exists()
    subprocess.run(["git", "status"], cwd=place.project, check=False, capture_output=True)
    assert place.mark.exists()
