"""``inv release.report`` at the command line."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow

WITHOUT_JINJA = "import sys; sys.modules['jinja2'] = None; from invoke.main import program; program.run()"


def test_the_latest_release_gets_a_private_page(scratch: InvokeProject) -> None:
    """A blocked release too; exit 0, a file of 0600 in a folder of 0700, and its path is printed."""
    scratch.document("release.prepare", "--release-id", "v1")
    scratch.configuration["release"]["gates"]["count"] = {"command": "exit 1"}
    scratch.document("release.prepare", "--release-id", "v2", code=1)
    reported = scratch.document("release.report")
    page = scratch.root / "pipeline" / "reports" / "v2.html"
    assert reported == {"status": "written", "releaseId": "v2", "verdict": "blocked", "output": str(page)}
    assert (stat.S_IMODE(page.stat().st_mode), stat.S_IMODE(page.parent.stat().st_mode)) == (0o600, 0o700)
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    done = scratch.run("release.report", "--release-id", "v1", "--output", "mine.html")
    assert (done.returncode, done.stdout) == (0, f"WRITTEN  v1, ready: {scratch.root / 'mine.html'}\n")
    assert stat.S_IMODE((scratch.root / "mine.html").stat().st_mode) == 0o600


def test_a_report_without_a_release_says_what_to_type(scratch: InvokeProject) -> None:
    """Exit 2 and a message for an unknown release, a malformed id, no release at all, and an unusable path."""
    assert "Prepare one: `inv release.prepare`" in scratch.document("release.report", code=2)["message"]
    scratch.document("release.prepare", "--release-id", "v1")
    before = scratch.tree()
    for words, reported in (
        (("--release-id", "v9"), "There is no release 'v9'. The latest releases are v1."),
        (("--release-id", "../v1"), "../v1"),
        (("--output", "."), "is a directory. Name a file in it, such as v1.html."),
        (("--output", "new/"), "is a directory."),
        (("--output", "none/page.html"), f"{scratch.root / 'none'} does not exist."),
        (("--output", ""), "--output: the value is empty"),
    ):
        assert reported in scratch.document("release.report", *words, code=2)["message"]
    assert scratch.tree() == before


def test_dry_writes_nothing(scratch: InvokeProject) -> None:
    """It prints the path of the page, and refuses what the real command refuses."""
    scratch.document("release.prepare", "--release-id", "v1")
    before = scratch.tree()
    done = scratch.run("--dry", "release.report")
    page = scratch.root / "pipeline" / "reports" / "v1.html"
    assert (done.returncode, done.stdout) == (0, f"Would write the page of v1 to {page}\n")
    assert scratch.run("--dry", "release.report", "--release-id", "v9").returncode == 2
    assert scratch.tree() == before


def test_without_the_extra_it_says_what_to_install(scratch: InvokeProject) -> None:
    """One message and exit 2; every other task works without the extra."""
    scratch.command = [sys.executable, "-c", WITHOUT_JINJA]
    scratch.document("release.prepare", "--release-id", "v1")
    done = scratch.run("release.report")
    assert done.returncode == 2
    assert done.stderr == "release.report needs an extra: pip install 'release-tasks[report]'\n"


def test_an_unwritable_folder_is_exit_1(scratch: InvokeProject) -> None:
    """The message names the file, and no partial file stays."""
    scratch.document("release.prepare", "--release-id", "v1")
    Path(scratch.root, "pipeline", "reports").write_text("in the way")
    reported = scratch.document("release.report", code=1)["message"]
    assert str(scratch.root / "pipeline" / "reports") in reported and "Traceback" not in reported
