"""Order and retention follow the recorded sequence, never names or file times."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.retention import retain
from release_tasks.core.errors import ExitCode, StageFailed, UsageError
from tests.support.project import Project


def take(project: Project, *snapshot_ids: str, kind: Literal["release", "safety"] = "release") -> None:
    """Capture snapshots of a small asset, one after the other."""
    assets = {"mcp": project.settings.release.assets["mcp"]}
    for snapshot_id in snapshot_ids:
        request = CaptureRequest(snapshot_id=snapshot_id, release_id=snapshot_id, kind=kind, retention_limit=5)
        capture_snapshot(project.pipeline.catalogue, assets, request)


def ids(catalogue: Catalogue) -> list[str]:
    return [snapshot.snapshot_id for snapshot in catalogue.published()[0]]


@pytest.mark.smoke
def test_v10_is_newer_than_v9(project: Project) -> None:
    """The older tool compared names and removed the snapshot that it had just made."""
    take(project, "v9", "v10")
    catalogue = project.pipeline.catalogue
    assert ids(catalogue) == ["v9", "v10"]
    assert catalogue.latest().snapshot_id == "v10"
    assert retain(catalogue, 1, set()) == ["v9"]
    assert ids(catalogue) == ["v10"]


def test_order_does_not_depend_on_file_times_or_names(project: Project) -> None:
    """The recorded sequence decides."""
    take(project, "zz", "a", "m", "B")
    catalogue = project.pipeline.catalogue
    for number, name in enumerate(["B", "m", "a", "zz"]):
        os.utime(catalogue.path(name), (number, number))
        os.utime(catalogue.path(name) / "metadata.json", (number, number))
    assert ids(catalogue) == ["zz", "a", "m", "B"]
    assert sorted(retain(catalogue, 2, set())) == ["a", "zz"]


def test_clock_set_back_does_not_change_the_order(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequence increases, whatever the clock says."""
    take(project, "first")
    monkeypatch.setattr("release_tasks.archive.capture.timestamp", lambda: "1999-01-01T00:00:00.000Z")
    take(project, "second")
    assert project.pipeline.catalogue.latest().snapshot_id == "second"


def test_sequence_increases_after_retention_removed_snapshots(project: Project) -> None:
    """No two existing snapshots have the same number."""
    take(project, "a", "b", "c")
    catalogue = project.pipeline.catalogue
    retain(catalogue, 1, set())
    take(project, "d")
    assert [snapshot.sequence for snapshot in catalogue.published()[0]] == [3, 4]


def test_protected_snapshots_stay(project: Project) -> None:
    """Retention keeps them in addition to the newest, whatever their age."""
    take(project, "a", "b", "c", "d")
    catalogue = project.pipeline.catalogue
    assert sorted(retain(catalogue, 1, {"b"})) == ["a", "c"]
    assert ids(catalogue) == ["b", "d"]


@pytest.mark.parametrize("limit", [0, -3, 1])
def test_newest_snapshot_is_never_removed(project: Project, limit: int) -> None:
    """Retention keeps it with any limit."""
    take(project, "a", "b")
    retain(project.pipeline.catalogue, limit, set())
    assert ids(project.pipeline.catalogue) == ["b"]


def test_safety_snapshots_are_counted_separately(project: Project) -> None:
    """Frequent rollbacks remove no release, and releases remove no safety snapshot."""
    take(project, "r1", "r2")
    for snapshot_id in ("s1", "s2", "s3"):
        project.mcp.write_text(snapshot_id)
        take(project, snapshot_id, kind="safety")
    catalogue = project.pipeline.catalogue
    assert retain(catalogue, 2, set()) == ["s1"]
    assert catalogue.latest().snapshot_id == "r2"


def test_equal_safety_snapshots_do_not_remove_different_ones(project: Project) -> None:
    """Repeated rollbacks keep the one state that differs."""
    take(project, "before", kind="safety")
    project.mcp.write_text("{}")
    take(project, "again1", "again2", "again3", kind="safety")
    catalogue = project.pipeline.catalogue
    assert sorted(retain(catalogue, 2, set())) == ["again2", "again3"]
    assert ids(catalogue) == ["before", "again1"]
    assert {catalogue.get(name).snapshot_id for name in ("again1", "again2", "again3")} == {"again1"}


def test_interrupted_removal_leaves_no_partial_snapshot(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is removed first; the next run removes the rest."""
    take(project, "a", "b")
    catalogue = project.pipeline.catalogue

    def crash(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("release_tasks.archive.stores.local.remove_tree", crash)
    with pytest.raises(KeyboardInterrupt):
        retain(catalogue, 1, set())
    monkeypatch.undo()
    assert ids(catalogue) == ["b"]
    assert catalogue.store.leftovers()
    assert catalogue.store.clean_up() == [".a.deleted"]
    assert os.listdir(catalogue.store.folder) == ["b"]


def test_folder_without_metadata_is_no_snapshot(project: Project) -> None:
    """It is not in the list, not the latest and not found by its name."""
    take(project, "a")
    catalogue = project.pipeline.catalogue
    (catalogue.store.folder / "b" / "assets").mkdir(parents=True)
    (catalogue.store.folder / "file").touch()
    assert ids(catalogue) == ["a"]
    assert catalogue.latest().snapshot_id == "a"
    with pytest.raises(UsageError, match=r"'b'.*no metadata\.json"):
        catalogue.get("b")


def test_unknown_snapshot_is_refused_with_the_known_ones(project: Project) -> None:
    """Exit code 2."""
    take(project, "a", "b")
    with pytest.raises(UsageError) as error:
        project.pipeline.catalogue.get("c")
    assert error.value.exit_code == ExitCode.USAGE
    assert error.value.message.startswith("There is no snapshot 'c'. The latest snapshots are b, a")


def test_empty_catalogue_is_reported(project: Project) -> None:
    """The message names the command that takes a snapshot; reading creates nothing."""
    with pytest.raises(StageFailed, match=r"inv release\.prepare"):
        project.pipeline.catalogue.latest()
    assert project.pipeline.catalogue.published() == ([], [])
    assert project.pipeline.catalogue.store.clean_up() == []
    assert not project.pipeline.root.exists()


@pytest.mark.parametrize("snapshot_id", ["../a", "..", "a/../b", "/etc", "", "a\x00", "-x", ".a.partial"])
def test_id_with_a_path_outside_the_catalogue_is_refused(project: Project, snapshot_id: str) -> None:
    """Exit code 2, before anything is read."""
    take(project, "a")
    with pytest.raises(UsageError, match="is not a valid id"):
        project.pipeline.catalogue.get(snapshot_id)
