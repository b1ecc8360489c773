"""Snapshots hold databases and keys, so `git add -A` must not take them along."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.durable import keep_out_of_git
from release_tasks.core.lock import run_lock
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.preflight.engine import run_preflight
from tests.support.project import Project
from tests.support.releases import good_release


def _added(folder: Path) -> set[str]:
    """Return the files that `git add -A` adds in a new repository."""
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    listed = subprocess.run(["git", "ls-files"], cwd=folder, check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def test_a_release_adds_nothing_to_git(project: Project) -> None:
    """The state of the service is its owner's decision; the pipeline folder adds nothing to it."""
    before = _added(project.folder)
    good_release(project)
    assert (project.pipeline.root / "snapshots").is_dir()
    assert _added(project.folder) == before


def test_a_preflight_alone_adds_nothing_to_git(project: Project) -> None:
    """The logs of its gates are in the pipeline folder."""
    before = _added(project.folder)
    run_preflight(project.settings)
    assert (project.pipeline.root / "logs").is_dir()
    assert _added(project.folder) == before


def test_a_folder_of_an_earlier_version_gets_the_file(project: Project) -> None:
    """The next run that takes the lock writes it."""
    good_release(project)
    ignore = project.pipeline.root / ".gitignore"
    ignore.unlink()
    with run_lock(project.pipeline.root, "test"):
        assert ignore.read_text() == "*\n"
    assert ignore.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["content", "empty", "link", "folder"])
def test_the_file_of_a_user_stays(tmp_path: Path, kind: str) -> None:
    """Whatever has the name is a decision of its owner."""
    ignore = tmp_path / ".gitignore"
    if kind == "link":
        ignore.symlink_to("nowhere")
    elif kind == "folder":
        ignore.mkdir()
    else:
        ignore.write_text("!manifests\n" if kind == "content" else "")
    before = ignore.lstat()
    keep_out_of_git(tmp_path)
    after = ignore.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_no_right_to_write_is_no_error(tmp_path: Path) -> None:
    """A run goes on without the file, for instance in a folder on a full disk."""
    (tmp_path / "file").write_text("x")
    keep_out_of_git(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_new_stores_and_a_new_gateway_add_nothing_to_git(tmp_path: Path) -> None:
    """Both hold secrets; a folder that exists is its owner's."""
    GatewayPaths(tmp_path / "memory/gateway").initialise()
    credentials = tmp_path / "memory/credentials"
    Pairing(PairingConfig(credentials=credentials)).request(Channel.TELEGRAM, "4711")
    assert credentials.is_dir()
    assert _added(tmp_path) == set()
    (credentials / ".gitignore").unlink()
    Pairing(PairingConfig(credentials=credentials)).request(Channel.TELEGRAM, "4712")
    assert not (credentials / ".gitignore").exists()
