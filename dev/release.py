"""Release this package: check, build, commit, tag. ``inv dev.release VERSION`` runs it.

A failure leaves the checkout unchanged. The wheel and the sdist are built from a copy and checked before a file of the
checkout is written; a failed commit or tag is undone.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from attrs import frozen
from packaging.version import Version

__all__ = ["Release", "ReleaseFailed", "ReleaseRefused", "UndoFailed", "make_release", "plan_release"]

VERSION_FILE = "release_tasks/core/version.py"
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"

PREFLIGHT = f"{shlex.quote(sys.executable)} -m invoke -f dev/release.yaml release.preflight --only style,tests"

Run = Callable[[str], None]
"""Runs a shell command in the checkout; raises ReleaseFailed when the command fails."""

Write = Callable[[Path, str], None]
"""Writes a text to a file."""


class ReleaseRefused(Exception):
    """A precondition does not hold, or a git command failed; the message has one line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))


class UndoFailed(Exception):
    """The release failed, and its undo failed too; the checkout may be changed."""


class ReleaseFailed(Exception):
    """A command of the release failed; the message is the command."""


@frozen
class Release:
    """A version that is about to be released, and the new texts of the files that state it."""

    checkout: Path
    version: str
    head: str
    texts: dict[str, str]

    @property
    def tag(self) -> str:
        """The name of the version in Git."""
        return f"v{self.version}"


def make_release(release: Release, run: Run, write: Write) -> list[Path]:
    """Run the gates, build and check the wheel and the sdist, commit and tag; return the two files in ``dist/``."""
    run(PREFLIGHT)
    with tempfile.TemporaryDirectory(prefix="release-tasks-release-") as scratch:
        source, built = Path(scratch, "source"), Path(scratch, "dist")
        _copy_head(release, source, run, write)
        _build_and_check(source, built, run)
        _refuse_changes_since(release)  # the gates took minutes
        with _undone_on_failure(release):
            for path, text in release.texts.items():
                write(release.checkout / path, text)
            distributions = _copy_to_dist(release, built)
            run(f"git commit --quiet -m 'release: version {release.version}' -- {' '.join(release.texts)}")
            run(f"git tag -a {release.tag} -m 'release-tasks {release.version}'")
    return distributions


def plan_release(checkout: Path, version: str, today: date) -> Release:
    """Return the release of ``version``; raises ReleaseRefused with every precondition that does not hold."""
    version_text = (checkout / VERSION_FILE).read_text()
    changelog = (checkout / CHANGELOG).read_text()
    problems = [
        *_problems_of_version(checkout, version, version_text),
        *_problems_of_checkout(checkout),
        *_problems_of_changelog(changelog),
        *_missing_tools(),
    ]
    if problems:
        raise ReleaseRefused(problems)
    texts = {
        VERSION_FILE: re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', version_text),
        CHANGELOG: changelog.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {today.isoformat()}\n", 1),
    }
    return Release(checkout, version, _git(checkout, "rev-parse", "HEAD"), texts)


def _problems_of_version(checkout: Path, version: str, version_text: str) -> list[str]:
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        return [f"{version!r} is not a version. Type three numbers such as 0.2.0, or a candidate such as 0.2.0rc1."]
    found = re.search(r'(?m)^__version__ = "(.*)"$', version_text)
    assert found is not None
    current = found[1]
    tags = _git(checkout, "tag", "--list", f"v{version}", f"v{current}").split()
    if f"v{version}" in tags:
        return [f"The tag v{version} exists. Choose a newer version."]
    # The first release has the version that the file states already: it is not tagged yet.
    is_newer = Version(version) > Version(current) or (version == current and f"v{current}" not in tags)
    return [] if is_newer else [f"{version} is not newer than the current version {current}. Choose a newer version."]


def _problems_of_checkout(checkout: Path) -> list[str]:
    problems = []
    branch = _git(checkout, "branch", "--show-current")
    if branch != "main":
        problems.append(f"The branch is {branch or 'a detached HEAD'}, not main. Run: git switch main")
    changes = _git(checkout, "status", "--porcelain").splitlines()
    if changes:
        names = ", ".join(line[3:] for line in changes[:3]) + (", ..." if len(changes) > 3 else "")
        problems.append(f"The checkout has uncommitted changes: {names}. Commit them, or run: git stash -u")
    return problems


def _problems_of_changelog(changelog: str) -> list[str]:
    _, heading, rest = changelog.partition(UNRELEASED)
    if not heading:
        return [f"{CHANGELOG} has no line '{UNRELEASED.strip()}'. Add it above the latest version."]
    entries = re.split(r"(?m)^## ", rest)[0]
    if not re.search(r"(?m)^- \S", entries):
        return [f"{CHANGELOG} has no entry below '{UNRELEASED.strip()}'. Describe there what changed for users."]
    return []


def _missing_tools() -> list[str]:
    missing = [name for name in ("build", "twine") if importlib.util.find_spec(name) is None]
    return [f"Not installed: {', '.join(missing)}. Run: pip install -e '.[dev]'"] if missing else []


def _copy_head(release: Release, source: Path, run: Run, write: Write) -> None:
    """Copy the committed files to ``source``, and write the new version and changelog there."""
    source.mkdir()
    run(f"git archive {release.head} | tar -x -C {shlex.quote(str(source))}")
    for path, text in release.texts.items():
        write(source / path, text)


def _build_and_check(source: Path, built: Path, run: Run) -> None:
    python, into = shlex.quote(sys.executable), shlex.quote(str(built))
    run(f"{python} -m build --quiet --no-isolation --outdir {into} {shlex.quote(str(source))}")
    run(f"{python} -m twine check --strict {into}/*")


def _refuse_changes_since(release: Release) -> None:
    if _git(release.checkout, "rev-parse", "HEAD") != release.head or _problems_of_checkout(release.checkout):
        raise ReleaseRefused(
            ["The checkout changed while the gates ran. See: git status; git log -1. Then run inv dev.release again."]
        )


@contextmanager
def _undone_on_failure(release: Release) -> Iterator[None]:
    """Take back tag, commit, files and distributions when the block raises an exception, an interrupt included."""
    try:
        yield
    except BaseException:
        checkout = release.checkout
        try:
            is_committed = _git(checkout, "rev-parse", "HEAD") != release.head
            if is_committed and _git(checkout, "tag", "--points-at", "HEAD", "--list", release.tag):
                _git(checkout, "tag", "--delete", release.tag)
            # Only the two files are restored: `reset --hard` would discard what was edited meanwhile.
            _git(checkout, "reset", "--quiet", "--soft", release.head)
            _git(checkout, "checkout", "--quiet", release.head, "--", *release.texts)
        except ReleaseRefused as error:
            raise UndoFailed(str(error)) from error
        for path in _distributions(checkout / "dist", release.version):
            path.unlink()
        raise


def _copy_to_dist(release: Release, built: Path) -> list[Path]:
    """Copy the wheel and the sdist to ``dist/``, which Git ignores."""
    dist = release.checkout / "dist"
    for path in _distributions(built, release.version):
        dist.mkdir(exist_ok=True)
        shutil.copy2(path, dist)
    return _distributions(dist, release.version)


def _distributions(folder: Path, version: str) -> list[Path]:
    return sorted(folder.glob(f"release_tasks-{version}[-.]*"))


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise ReleaseRefused([f"git {' '.join(arguments)} failed: {done.stderr.strip()}"])
    return done.stdout.rstrip("\n")
