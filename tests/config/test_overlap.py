"""Paths of the configuration that differ only by a link, a mount or the case of a letter are one place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.errors import ConfigError
from release_tasks.core.location import is_within
from release_tasks.tasks.project import load_settings

Act = Callable[[Path], object]


def problems_of(project: Path, assets: dict[str, Any], root: str = "pipeline", **more: Any) -> list[str]:
    try:
        load_settings({"release": {"assets": assets, "root": root}, **more}, project)
    except ConfigError as error:
        return error.problems
    return []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project folder with identity/keys/, state/one.json and memory/."""
    folder = tmp_path / "project"
    for name in ("identity/keys", "state", "memory"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "one.json").write_text("1")
    return folder


def link(name: str, target: str) -> Act:
    """Return the act of making the link ``name`` to ``target`` in the project."""
    return lambda project: os.symlink(target, project / name)


def links(project: Path) -> None:
    os.symlink("two", project / "one")
    os.symlink("identity/keys", project / "two")


@pytest.mark.parametrize(
    ("act", "root"),
    [
        (link("link", "identity/pipeline"), "link"),
        (link("link", "identity"), "link"),
        (link("link", "identity/keys/../new"), "link/deep/er"),
        (link("memory/link", "../identity"), "memory/link/pipeline"),
        (link("link", "."), "link"),
        (links, "one/pipeline"),
        (link("unused", "."), "state/../identity/pipeline"),
        (link("unused", "."), "/proc/self/cwd/identity/pipeline"),
    ],
)
def test_pipeline_folder_inside_an_asset_is_refused(
    project: Path, act: Act, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshots would be captured into themselves; the sentence has both keys."""
    monkeypatch.chdir(project)
    act(project)
    problems = problems_of(project, {"identity": {"directory": "identity"}}, root)
    (problem,) = (problem for problem in problems if problem.startswith("invoke.yaml: release.root: "))
    assert " overlaps with release.assets.identity" in problem


@pytest.mark.parametrize(
    ("act", "first", "second"),
    [
        (link("other", "state"), {"file": "state/one.json"}, {"file": "other/one.json"}),
        (link("other", "state"), {"directory": "state"}, {"sqlite": "other/app.db"}),
        (link("other", "state"), {"sqlite": "state/new.db"}, {"file": "other/new.db"}),
        (link("other", "."), {"directory": "other/identity"}, {"directory": "identity/keys"}),
    ],
)
def test_asset_in_another_through_a_link_is_refused(
    project: Path, act: Act, first: dict[str, str], second: dict[str, str]
) -> None:
    """Also where neither of them exists yet; the sentence has both places."""
    act(project)
    (problem,) = problems_of(project, {"a": first, "b": second})
    assert problem.startswith("invoke.yaml: release.assets.b: ")
    assert " overlaps with release.assets.a through a link or a mount: they are " in problem


@pytest.fixture
def mounted(project: Path) -> Iterator[Path]:
    """Return a folder outside of the project that is a bind mount of identity/."""
    place = project.parent / "elsewhere"
    place.mkdir()
    done = subprocess.run(["mount", "--bind", project / "identity", place], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"bind mounts need root: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_pipeline_folder_inside_an_asset_through_a_bind_mount_is_refused(project: Path, mounted: Path) -> None:
    """No link is involved: only device and inode show it."""
    (problem,) = problems_of(project, {"identity": {"directory": "identity"}}, str(mounted / "pipeline"))
    assert " overlaps with release.assets.identity through a link or a mount" in problem
    (problem,) = problems_of(project, {"a": {"directory": "identity"}, "b": {"file": str(mounted / "key.pem")}})
    assert "release.assets.b" in problem and "release.assets.a" in problem
    assert is_within(mounted / "a" / "b", project / "identity") and not is_within(mounted, project / "state")


def test_credentials_and_gateway_inside_the_pipeline_folder_are_refused(project: Path) -> None:
    """Also through a link."""
    os.symlink("pipeline", project / "link")
    problems = problems_of(project, {}, pairing={"credentials": "link/credentials"}, gateway={"root": "link"})
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        f"pairing.credentials: {project}/link/credentials is inside release.root",
        f"gateway.root: {project}/link is inside release.root",
    ]


@pytest.mark.parametrize(
    "act",
    [
        lambda project: os.link(project / "state/one.json", project / "state/two.json"),
        lambda project: os.symlink("one.json", project / "state/two.json"),
        lambda project: os.symlink("/", project / "memory/link"),
        lambda project: os.symlink("../pipeline", project / "identity/link"),
    ],
)
def test_links_that_a_release_can_make_do_not_prevent_its_rollback(project: Path, act: Act) -> None:
    """A restore replaces a link in place of an asset or inside it, so the configuration stays valid."""
    act(project)
    assets = {
        "one": {"file": "state/one.json"},
        "two": {"file": "state/two.json"},
        "identity": {"directory": "identity"},
    }
    assert problems_of(project, assets) == []
