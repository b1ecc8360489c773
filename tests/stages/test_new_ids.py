"""An id that was not typed is never taken, however many runs choose one in the same second."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from release_tasks.core.durable import make_new_directory
from release_tasks.core.errors import UsageError
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.prepare import begin_release, prepare_release
from tests.support.project import Project

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every id be made of the same second."""
    monkeypatch.setattr("release_tasks.core.clock.now", lambda: NOON)


@pytest.mark.usefixtures("stopped_clock")
def test_runs_of_one_second_have_ids_and_logs_of_their_own(project: Project) -> None:
    """Each of them chooses before any of them has a manifest; then all are prepared."""
    chosen = [begin_release(project.settings) for _ in range(3)]
    assert chosen == ["1.0-20260131120000", "1.0-20260131120000-2", "1.0-20260131120000-3"]
    manifests = [prepare_release(project.settings) for _ in range(3)]
    assert [manifest.status for manifest in manifests] == ["ready"] * 3
    assert [manifest.release_id.removeprefix(chosen[0]) for manifest in manifests] == ["-4", "-5", "-6"]
    logs = {str(manifest.preflight.checks[0].diagnostics["logPath"]) for manifest in manifests}
    snapshots = {manifest.snapshot.snapshot_id for manifest in manifests if manifest.snapshot}
    assert (len(logs), len(snapshots)) == (3, 3)


@pytest.mark.usefixtures("stopped_clock")
def test_a_clock_that_was_put_back_gives_another_id(project: Project) -> None:
    """The same second comes again after the logs were removed: the manifest still has the id."""
    first = prepare_release(project.settings)
    for folder in project.pipeline.logs.iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert prepare_release(project.settings).release_id == f"{first.release_id}-2"


@pytest.mark.usefixtures("stopped_clock")
def test_a_snapshot_without_a_manifest_keeps_its_id(project: Project) -> None:
    """The manifest was removed manually, and the second comes again."""
    first = prepare_release(project.settings, release_id="v1")
    project.pipeline.manifest_path("v1").unlink()
    second = prepare_release(project.settings, release_id="v1")
    assert first.snapshot is not None
    assert second.snapshot is not None
    assert second.snapshot.snapshot_id == f"{first.snapshot.snapshot_id}-2"


def test_only_a_typed_id_can_be_taken(project: Project) -> None:
    """Exit code 2, as before."""
    prepare_release(project.settings, release_id="v1")
    with pytest.raises(UsageError, match="was prepared already"):
        prepare_release(project.settings, release_id="v1")


@pytest.mark.usefixtures("stopped_clock")
def test_logs_of_two_runs_are_in_two_folders(project: Project) -> None:
    """Also of a preflight alone, of one gate, and of an id that was typed twice."""
    for release_id, name in ((None, "preflight-20260131120000"), ("gate-1", "gate-1"), ("v1", "v1")):
        runs = [run_preflight(project.settings, release_id=release_id) for _ in range(2)]
        assert [run.log_directory.name for run in runs] == [name, f"{name}-2"]


def test_a_new_directory_is_claimed_once(project: Project) -> None:
    """Names that are taken are not used, and nothing is created for them."""
    made = [make_new_directory(project.folder / "new", "a", {"a-2"}).name for _ in range(3)]
    assert made == ["a", "a-3", "a-4"]
