"""``inv dev.release`` in a clone of this repository: a release is complete, or the clone is unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GATES = "release: {gates: {style: {command: 'true'}, tests: {command: 'true'}}}\n"
CHANGES = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A new task.\n"


class Clone:
    """A clone of this repository on the branch main, with the files as they are now and quick gates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # `python -m invoke` puts the working directory first on sys.path, so the code of the clone runs.
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON", "GIT_"))}
        subprocess.run(["git", "clone", "-q", "--shared", str(REPOSITORY), str(root)], check=True)
        self.git("checkout", "-q", "-B", "main")
        for name, value in (("user.name", "A Developer"), ("user.email", "developer@example.org")):
            self.git("config", name, value)
        listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY)
        for name in filter(None, listed.decode().split("\0")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / name).exists():
                (root / name).write_bytes((REPOSITORY / name).read_bytes())
        self.commit("dev/release.yaml", GATES)
        self.commit("CHANGELOG.md", CHANGES)

    def git(self, *arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=self.root, text=True).strip()

    def commit(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "-m", f"change {name}")

    def release(self, version: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "invoke", *options, "dev.release", version]
        return subprocess.run(command, cwd=self.root, env=self.variables, capture_output=True, text=True)

    def state(self) -> tuple[str, ...]:
        """Return what a release changes: commits, tags, the status of the files, and the distributions."""
        dist = self.root / "dist"
        names = sorted(path.name for path in dist.iterdir()) if dist.exists() else []
        return (self.git("rev-parse", "HEAD"), self.git("tag", "--list"), self.git("status", "--porcelain"), *names)

    def hook(self, name: str, script: str) -> None:
        path = self.root / ".git" / "hooks" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Return a clone that can be released."""
    for tool in ("build", "twine"):
        pytest.importorskip(tool, reason="NOT TESTED: dev.release needs the extra dev: pip install -e '.[dev]'")
    return Clone(tmp_path / "clone")


@pytest.mark.slow
def test_a_release_is_built_checked_committed_and_tagged(clone: Clone) -> None:
    """The version is in the file, the changelog, the wheel, the sdist and the tag; the tree is clean."""
    head = clone.git("rev-parse", "HEAD")
    done = clone.release("0.2.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.git("rev-parse", "HEAD~1") == head
    assert clone.git("log", "-1", "--format=%s") == "release: version 0.2.0"
    assert clone.git("rev-parse", "v0.2.0^{commit}") == clone.git("rev-parse", "HEAD")
    assert clone.git("cat-file", "-t", "v0.2.0") == "tag"
    assert clone.git("status", "--porcelain") == ""
    assert set(clone.git("diff", "--name-only", head).split()) == {"CHANGELOG.md", "release_tasks/core/version.py"}
    changelog = (clone.root / "CHANGELOG.md").read_text()
    assert re.search(
        r"\n## \[Unreleased\]\n\n## \[0\.2\.0\] - \d{4}-\d\d-\d\d\n\n### Added\n\n- A new task\.\n", changelog
    )
    (wheel,) = (clone.root / "dist").glob("release_tasks-0.2.0-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert b'__version__ = "0.2.0"' in archive.read("release_tasks/core/version.py")
        assert not [name for name in archive.namelist() if not name.startswith("release_tasks")]
    with tarfile.open(clone.root / "dist" / "release_tasks-0.2.0.tar.gz") as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "setup.cfg", "CHANGELOG.md", "release_tasks/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "dev"))]
    assert "git push --atomic origin main v0.2.0" in done.stdout
    assert "twine upload dist/" in done.stdout
    again = clone.release("0.2.0")
    assert (again.returncode, "The tag v0.2.0 exists" in again.stderr) == (2, True)


@pytest.mark.slow
def test_the_first_release_may_have_the_version_of_the_file(clone: Clone) -> None:
    """The version in the file is not tagged, so it was never released."""
    assert clone.release("0.1.0").returncode == 0
    assert clone.git("tag", "--list") == "v0.1.0"


def edit_a_file(clone: Clone) -> None:
    (clone.root / "README.md").write_text("edited\n")


def leave_an_untracked_file(clone: Clone) -> None:
    (clone.root / "notes.txt").write_text("a note\n")


REFUSALS: dict[str, tuple[Callable[[Clone], object], str, str]] = {
    "edited file": (edit_a_file, "0.2.0", "uncommitted changes: README.md. Commit them, or run: git stash -u"),
    "untracked file": (leave_an_untracked_file, "0.2.0", "uncommitted changes: notes.txt."),
    "other branch": (lambda clone: clone.git("switch", "-qc", "topic"), "0.2.0", "The branch is topic, not main."),
    "no branch": (lambda clone: clone.git("checkout", "-q", "--detach"), "0.2.0", "a detached HEAD, not main."),
    "existing tag": (lambda clone: clone.git("tag", "v0.2.0"), "0.2.0", "The tag v0.2.0 exists."),
    "older version": (lambda clone: None, "0.0.9", "0.0.9 is not newer than the current version 0.1.0."),
    "candidate of the current version": (lambda clone: None, "0.1.0rc1", "0.1.0rc1 is not newer than"),
    "word": (lambda clone: None, "next", "'next' is not a version."),
    "flag": (lambda clone: None, "--help", "'--help' is not a version."),
    "command": (lambda clone: None, "0.2.0;id", "'0.2.0;id' is not a version."),
    "no entry": (
        lambda clone: clone.commit("CHANGELOG.md", CHANGES.replace("- A new task.\n", "")),
        "0.2.0",
        "CHANGELOG.md has no entry below '## [Unreleased]'.",
    ),
    "entries of an older version only": (
        lambda clone: clone.commit("CHANGELOG.md", CHANGES.replace("### Added", "## [0.1.0] - 2026-01-01")),
        "0.2.0",
        "CHANGELOG.md has no entry below",
    ),
    "no heading": (
        lambda clone: clone.commit("CHANGELOG.md", "# Changelog\n"),
        "0.2.0",
        "CHANGELOG.md has no line '## [Unreleased]'.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSALS)
def test_a_release_is_refused_and_changes_nothing(clone: Clone, name: str) -> None:
    """Exit code 2, the reason, and no gate has run."""
    prepare, version, reason = REFUSALS[name]
    prepare(clone)
    before = clone.state()
    done = clone.release(version)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stdout + done.stderr
    assert done.stderr.endswith("Nothing was changed.\n")
    assert "preflight" not in done.stdout + done.stderr
    assert clone.state() == before


@pytest.mark.slow
def test_every_reason_is_reported_in_one_run(clone: Clone) -> None:
    clone.git("switch", "-qc", "topic")
    edit_a_file(clone)
    assert len(clone.release("0.0.1").stderr.splitlines()) == 4


FAILURES: dict[str, Callable[[Clone], object]] = {
    "gate": lambda clone: clone.commit("dev/release.yaml", GATES.replace("'true'", "'false'")),
    "build": lambda clone: clone.commit("pyproject.toml", '[build-system]\nrequires = ["setuptools"]\nbackend = 1\n'),
    "twine": lambda clone: clone.commit(
        "setup.cfg", (clone.root / "setup.cfg").read_text().replace("markdown", "x-rst")
    ),
    "commit": lambda clone: clone.hook("pre-commit", "exit 1"),
    "tag": lambda clone: clone.hook("reference-transaction", "! grep -q refs/tags/v0.2.0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_a_release_that_fails_changes_nothing(clone: Clone, name: str) -> None:
    """Exit code 1, the command that failed; commit, version, changelog and distributions are taken back."""
    FAILURES[name](clone)
    before = clone.state()
    done = clone.release("0.2.0")
    assert (done.returncode, "The command failed: " in done.stderr) == (1, True), done.stdout + done.stderr
    assert clone.state() == before


@pytest.mark.slow
def test_a_failed_release_keeps_what_was_edited_meanwhile(clone: Clone) -> None:
    """An edit during the commit survives, because only the two files of the release are restored."""
    clone.hook("pre-commit", "echo edited > README.md; exit 1")
    assert clone.release("0.2.0").returncode == 1
    assert clone.git("status", "--porcelain") == "M README.md"


@pytest.mark.slow
def test_a_release_is_refused_when_the_checkout_changes_during_the_gates(clone: Clone) -> None:
    clone.commit("dev/release.yaml", GATES.replace("'true'", "echo edited > README.md", 1))
    done = clone.release("0.2.0")
    assert (done.returncode, "The checkout changed while the gates ran" in done.stderr) == (2, True)
    assert clone.state()[1:] == ("", "M README.md")


@pytest.mark.slow
def test_a_dry_release_prints_its_steps_and_changes_nothing(clone: Clone) -> None:
    before = clone.state()
    done = clone.release("0.2.0", "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = (
        "release.preflight --only style,tests",
        "-m build",
        "twine check --strict",
        "git commit",
        "git tag -a v0.2.0",
    )
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert clone.state() == before
