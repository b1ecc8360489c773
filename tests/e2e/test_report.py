"""``inv release.report`` as an operator types it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow

WITHOUT_JINJA = "import sys; sys.modules['jinja2'] = None; from invoke.main import program; program.run()"


def test_the_newest_release_gets_a_private_page(scratch: InvokeProject) -> None:
    """A blocked one too; exit 0, a file of 0600 in a folder of 0700, and where it lies is said."""
    scratch.document("release.prepare", "--release-id", "v1")
    scratch.configuration["release"]["gates"]["count"] = {"command": "exit 1"}
    scratch.document("release.prepare", "--release-id", "v2", code=1)
    told = scratch.document("release.report")
    page = scratch.root / "pipeline" / "reports" / "v2.html"
    assert told == {"status": "written", "releaseId": "v2", "verdict": "blocked", "output": str(page)}
    assert (stat.S_IMODE(page.stat().st_mode), stat.S_IMODE(page.parent.stat().st_mode)) == (0o600, 0o700)
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    done = scratch.run("release.report", "--release-id", "v1", "--output", "mine.html")
    assert (done.returncode, done.stdout) == (0, f"WRITTEN  v1, ready: {scratch.root / 'mine.html'}\n")
    assert stat.S_IMODE((scratch.root / "mine.html").stat().st_mode) == 0o600


def test_a_report_on_nothing_says_what_to_type(scratch: InvokeProject) -> None:
    """Exit 2 and a sentence for an unknown release, an impossible id, no release at all, and a file that cannot be."""
    assert "`inv release.prepare` makes one" in scratch.document("release.report", code=2)["message"]
    scratch.document("release.prepare", "--release-id", "v1")
    before = scratch.tree()
    for words, told in (
        (("--release-id", "v9"), "There is no release 'v9'. The newest are: v1."),
        (("--release-id", "../v1"), "../v1"),
        (("--output", "."), "is a folder. Name a file in it, such as v1.html."),
        (("--output", "new/"), "is a folder."),
        (("--output", "none/page.html"), f"the folder {scratch.root / 'none'} does not exist."),
        (("--output", ""), "--output: expected a value"),
    ):
        assert told in scratch.document("release.report", *words, code=2)["message"]
    assert scratch.tree() == before


def test_dry_writes_nothing(scratch: InvokeProject) -> None:
    """It says where the page would go, and refuses what it would refuse."""
    scratch.document("release.prepare", "--release-id", "v1")
    before = scratch.tree()
    done = scratch.run("--dry", "release.report")
    page = scratch.root / "pipeline" / "reports" / "v1.html"
    assert (done.returncode, done.stdout) == (0, f"Would write the page of v1 to {page}\n")
    assert scratch.run("--dry", "release.report", "--release-id", "v9").returncode == 2
    assert scratch.tree() == before


def test_without_the_extra_it_says_what_to_install(scratch: InvokeProject) -> None:
    """One sentence and exit 2; every other task works without it."""
    scratch.command = [sys.executable, "-c", WITHOUT_JINJA]
    scratch.document("release.prepare", "--release-id", "v1")
    done = scratch.run("release.report")
    assert done.returncode == 2
    assert done.stderr == "release.report needs an extra: pip install 'release-tasks[report]'\n"


def test_a_folder_that_cannot_be_written_is_exit_1(scratch: InvokeProject) -> None:
    """The stage ran and could not write: a sentence with the file's name, and nothing half-written."""
    scratch.document("release.prepare", "--release-id", "v1")
    Path(scratch.root, "pipeline", "reports").write_text("in the way")
    told = scratch.document("release.report", code=1)["message"]
    assert str(scratch.root / "pipeline" / "reports") in told and "Traceback" not in told
