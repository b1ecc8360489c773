"""A project whose path is not UTF-8, or not in the encoding of the locale."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject
from tests.support.project import Project

NAME = os.fsdecode(b"not utf-8 \xff\xe9 %41?#")


def test_a_database_in_a_folder_that_is_not_utf_8_is_captured_and_restored(tmp_path: Path) -> None:
    """SQLite takes paths as UTF-8 only; names inside of an asset may have any bytes too."""
    folder = tmp_path / NAME
    folder.mkdir()
    project = Project(folder)
    (project.identity / os.fsdecode(b"key \xfe")).write_text("k")
    before = project.content()
    snapshot = project.capture()
    project.damage()
    assert project.content() != before
    outcome = project.roll_back(snapshot.snapshot_id)
    assert (outcome.status, outcome.diagnostics) == ("restored", outcome.diagnostics)
    assert project.content() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [NAME, "caf\u00e9"])
def test_every_answer_in_the_c_locale(scratch: InvokeProject, name: str) -> None:
    """Without UTF-8 mode Python decodes such a path to lone surrogates; no answer is a traceback."""
    root = scratch.root / name
    (root / "keys").mkdir(parents=True)
    project = InvokeProject(root, scratch.variables, [sys.executable, "-m", "release_tasks"])
    project.variables |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (root / "keys" / os.fsdecode(b"key \xfe")).write_text("k")
    project.configuration["release"]["assets"]["keys"] = {"directory": "keys"}
    assert project.document("release.prepare", "--release-id", "v1")["status"] == "ready"
    (root / "state.txt").write_text("two")
    for line in ("release.status", "release.rollback", "release.diagnose", "release.report", "pairing.list telegram"):
        done = project.run(*line.split())
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
    assert (root / "state.txt").read_text() == "one"
    assert json.loads(project.run("release.verify", "--json").stdout)["status"] == "verified"
