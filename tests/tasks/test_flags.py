"""Flags that name a file: no output of a command is written into the state or among the records."""

from __future__ import annotations

import os

import pytest

from release_tasks.core.errors import UsageError
from release_tasks.tasks.flags import output_flag
from tests.support.project import Project


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("state/identity/page.html", "release.assets.identity"),
        ("state/mcp.json", "release.assets.mcp"),
        ("state/../state/app.db", "release.assets.database"),
        ("link/identity/page.html", "release.assets.identity"),
        ("link/mcp.json", "release.assets.mcp"),
        ("pipeline/manifests/latest.json", "release.root"),
        ("pipeline/lock", "release.root"),
    ],
)
def test_output_is_not_written_into_the_state(
    project: Project, name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through a link."""
    monkeypatch.chdir(project.folder)
    os.symlink("state", project.folder / "link")
    with pytest.raises(UsageError, match=rf"--output: '{name}' is inside {key} \("):
        output_flag(project.settings, "output", name)


@pytest.mark.parametrize("name", ["page.html", "state/page.html", "pipeline/reports/v1.html", "../page.html"])
def test_output_elsewhere_is_allowed(project: Project, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports of the pipeline folder too."""
    monkeypatch.chdir(project.folder)
    assert output_flag(project.settings, "output", name) == project.folder / name
