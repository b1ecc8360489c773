"""Which snapshot is restored, what is recorded about the rollback, and what a preview must not do."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.files import file_tree, listing
from tests.support.project import MakeProject, Project
from tests.support.rollback import audit_events, roll_back
from tests.support.scripts import StartService
from tests.support.snapshots import write_older_metadata


@pytest.mark.smoke
def test_every_asset_is_restored(project: Project) -> None:
    """Rows, bytes, modes, links, empty folders and absences are those of the snapshot."""
    before = project.content()
    project.capture()
    project.damage()
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert project.content() == before
    assert project.leftovers() == []
    assert not project.pipeline.journal_path.exists()
    assert audit_events(project) == [("rollback.started", "in_progress"), ("rollback.finished", "restored")]


def test_outcome_lists_restored_removed_and_skipped_assets(project: Project) -> None:
    """Each asset is in the list of what was done to it."""
    project.capture()
    project.damage()
    (project.identity / "identity.json").write_text('{"id": "one"}')
    (project.identity / "intruder").unlink()
    outcome = roll_back(project)
    assert sorted(outcome.restored_assets) == ["database", "mcp"]
    assert outcome.removed_assets == ["extra"]
    assert outcome.skipped_assets == ["identity"]


def test_latest_snapshot_is_the_last_one_taken(project: Project) -> None:
    """v10 is newer than v9: the order of the names does not count."""
    project.capture("v9")
    project.mcp.write_text('{"ten": 1}')
    project.capture("v10")
    project.mcp.write_text("{}")
    outcome = roll_back(project)
    assert outcome.snapshot_id == "v10_snapshot"
    assert project.mcp.read_text() == '{"ten": 1}'


def test_latest_snapshot_is_never_a_safety_snapshot(project: Project) -> None:
    """A rollback without an id restores a release, also after another rollback."""
    project.capture("v1")
    project.damage()
    roll_back(project)
    project.damage()
    assert roll_back(project).snapshot_id == "v1_snapshot"


def test_given_snapshot_is_restored_although_newer_ones_exist(project: Project) -> None:
    """--snapshot selects exactly that snapshot."""
    before = project.content()
    project.capture("v1")
    project.damage()
    project.capture("v2")
    outcome = roll_back(project, "v1_snapshot")
    assert (outcome.status, outcome.snapshot_id) == ("restored", "v1_snapshot")
    assert project.content() == before


def test_safety_snapshot_restores_the_state_before_the_rollback(project: Project) -> None:
    """A rollback can itself be rolled back, again and again."""
    original = project.content()
    project.capture()
    project.damage()
    damaged = project.content()
    first = roll_back(project)
    assert first.safety_snapshot_id
    second = roll_back(project, first.safety_snapshot_id)
    assert second.status == "restored"
    assert project.content() == damaged
    assert roll_back(project, second.safety_snapshot_id).status == "restored"
    assert project.content() == original
    assert project.leftovers() == []


def test_recorded_state_names_the_restored_and_the_safety_snapshot(project: Project) -> None:
    """rollback-state.json has the documented keys, with the position in the audit log."""
    project.capture()
    project.damage()
    outcome = roll_back(project)
    state = json.loads(project.pipeline.state_path.read_text())
    assert state["status"] == "success"
    assert state["snapshotId"] == "v1_snapshot"
    assert state["lineage"] == "1/0"  # the newest snapshot's sequence, and no manifest
    assert state["safetySnapshotId"] == outcome.safety_snapshot_id
    assert state["audit"]["seq"] == 4
    assert set(state) >= {"snapshotId", "status", "updatedAt", "detail", "lineage"}
    assert oct(project.pipeline.state_path.stat().st_mode & 0o777) == "0o600"


def test_plan_lists_every_change_and_changes_nothing(project: Project) -> None:
    """After --plan each byte, inode and name is the same."""
    project.capture()
    roll_back(project, force=True)  # the lock file and the log are there from now on
    project.damage()
    before = file_tree(project.folder)
    plan = plan_rollback(project.settings)
    assert file_tree(project.folder) == before
    assert {change.key: change.action for change in plan.changes} == {
        "database": "restore",
        "identity": "restore",
        "mcp": "restore",
        "extra": "remove",
    }
    assert "intruder" in next(change.detail for change in plan.changes if change.key == "identity")


def test_first_plan_creates_nothing(project: Project) -> None:
    """Before any other command ran, there is no lock file, and a plan makes none."""
    project.capture()
    project.damage()
    before = listing(project.folder)
    plan_rollback(project.settings)
    assert listing(project.folder) == before


def test_plan_leaves_the_wal_of_a_crashed_service_unchanged(project: Project, start_service: StartService) -> None:
    """The WAL is the same byte for byte, and no other file appears."""
    project.capture()
    roll_back(project, force=True)
    service = start_service(project.database)
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 1, 1)")
    service.crash()
    Path(str(project.database) + "-shm").unlink(missing_ok=True)
    assert Path(str(project.database) + "-wal").stat().st_size
    before = listing(project.state)
    plan_rollback(project.settings)
    assert listing(project.state) == before


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_plan_does_not_disturb_a_running_service(
    make_project: MakeProject, start_service: StartService, journal_mode: str
) -> None:
    """The connection of the service works, and its locks still exclude other writers."""
    project = make_project("p", journal_mode)
    project.capture()
    service = start_service(project.database)
    service.ask("BEGIN")
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    plan_rollback(project.settings)
    other = sqlite3.connect(project.database, timeout=0)
    with pytest.raises(sqlite3.OperationalError):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    assert service.ask("COMMIT") == []
    assert service.ask("SELECT amount FROM ledger") == [[3]]


def test_plan_refuses_a_damaged_snapshot(project: Project) -> None:
    """--plan verifies the snapshot as the rollback does."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    stored.write_text("{ }")
    with pytest.raises(StageFailed, match="mcp"):
        plan_rollback(project.settings)


@pytest.mark.smoke
def test_unknown_snapshot_is_refused_with_the_known_ones_and_audited(project: Project) -> None:
    """Nothing is touched; the message lists the snapshots; the attempt is audited."""
    project.capture()
    before = file_tree(project.state)
    with pytest.raises(UsageError, match="v1_snapshot"):
        roll_back(project, "v2_snapshot")
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "refused")]


@pytest.mark.parametrize(
    "snapshot_id", ["../v1_snapshot", "..", "a/b", "/etc", ".hidden", "", " ", "--force", "v1\n", "x" * 129]
)
def test_id_with_a_path_outside_the_catalogue_is_refused(project: Project, snapshot_id: str) -> None:
    """An empty id is refused too, and never means the default."""
    project.capture()
    project.damage()
    before = file_tree(project.state)
    with pytest.raises(UsageError):
        roll_back(project, snapshot_id)
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "refused")]


def test_rollback_without_any_snapshot_fails_and_is_audited(project: Project) -> None:
    """The message names the command that takes a snapshot."""
    before = file_tree(project.state)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "release.prepare" in outcome.diagnostics[0]
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "failed")]


def test_unreadable_latest_snapshot_is_not_skipped(project: Project) -> None:
    """The latest release is unknown then; a given snapshot can still be restored."""
    before = project.content()
    project.capture("v1")
    project.capture("v2")
    (project.pipeline.catalogue.path("v2_snapshot") / "metadata.json").write_text("{")
    project.damage()
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "v2_snapshot" in outcome.diagnostics[0] and "--snapshot" in outcome.diagnostics[0]
    assert roll_back(project, "v1_snapshot").status == "restored"
    assert project.content() == before


def test_asset_with_another_kind_is_refused(project: Project) -> None:
    """A folder is never restored where the configuration names a file."""
    project.capture()
    project.damage()
    project.overrides["assets"] = {"identity": {"file": "state/extra.json"}}
    before = file_tree(project.state)
    outcome = roll_back(project, "v1_snapshot")
    assert outcome.status == "failed"
    assert "identity" in outcome.diagnostics[0]
    assert file_tree(project.state) == before


def test_asset_missing_in_the_snapshot_is_left_alone_and_named(project: Project) -> None:
    """An asset that was configured later is not part of an old snapshot."""
    project.capture()
    project.damage()
    late = project.state / "late.json"
    late.write_text("late")
    project.overrides["assets.late"] = {"file": "state/late.json"}
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert late.read_text() == "late"
    assert any("late" in message for message in outcome.diagnostics)


def test_configuration_decides_where_an_asset_is_restored(project: Project) -> None:
    """A path in the metadata is never written to; a moved asset is restored at its present path."""
    project.capture()
    moved = project.folder / "moved" / "mcp.json"
    project.overrides["assets.mcp"] = {"file": "moved/mcp.json"}
    project.mcp.unlink()
    assert roll_back(project).status == "restored"
    assert moved.read_text() == '{"mcpServers": {}}'
    assert not project.mcp.exists()


def test_modification_times_and_modes_are_restored(project: Project) -> None:
    """Those of folders and of the database are restored too."""
    os.chmod(project.identity / "keys", 0o750)
    os.chmod(project.identity, 0o710)
    os.chmod(project.database, 0o640)
    pem = project.identity / "keys" / "private.pem"
    for path in (pem, project.mcp, project.identity / "keys", project.identity):
        os.utime(path, ns=(10**18, 10**18 + 5))
    before = project.content()
    project.capture()
    project.damage()
    pem.write_text("other")
    for path in (project.identity / "keys", project.identity, project.database):
        os.chmod(path, 0o700)
    assert roll_back(project).status == "restored"
    assert project.content() == before
    assert project.database.stat().st_mode & 0o777 == 0o640
    for path in (pem, project.mcp, project.identity / "keys", project.identity):
        assert path.stat().st_mtime_ns == 10**18 + 5, path


def test_link_is_restored_as_a_link_and_never_followed(project: Project, tmp_path: Path) -> None:
    """The target outside the live folder is neither captured nor written nor removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    project.capture()
    (project.identity / "current").unlink()
    os.symlink(outside, project.identity / "current")
    assert roll_back(project).status == "restored"
    assert os.readlink(project.identity / "current") == "keys/private.pem"
    assert (outside / "precious").read_text() == "precious"


def test_file_names_with_special_characters_are_restored(project: Project) -> None:
    """Newlines, quotes, non-ASCII letters and leading dashes are valid in file names."""
    for name in ("a\nb", "-rf", 'q"uote', "ünï", ".hidden", "x" * 200, "a%3fb?c#d"):
        (project.identity / name).write_text(name)
    before = project.content()
    project.capture()
    for name in ("a\nb", "-rf", "ünï"):
        (project.identity / name).unlink()
    assert roll_back(project).status == "restored"
    assert project.content() == before


@pytest.mark.parametrize("name", ["app?mode=memory.db", "a#b.db", "a%41.db", "with space.db", "ü.db", "-x.db"])
def test_database_name_is_never_read_as_a_uri(project: Project, name: str) -> None:
    """A name with ``?``, ``#`` or ``%`` is restored under that name."""
    os.rename(project.database, project.state / name)
    project.database = project.state / name
    project.overrides["assets.database"] = {"sqlite": f"state/{name}"}
    before = project.content()
    project.capture()
    project.damage()
    assert roll_back(project).status == "restored"
    assert project.content() == before


def test_missing_state_folder_is_restored(project: Project) -> None:
    """A restore needs no live file."""
    before = project.content()
    project.capture()
    shutil.rmtree(project.state)
    assert roll_back(project).status == "restored"
    assert project.content() == before


def test_retention_removes_old_safety_snapshots_and_keeps_needed_ones(project: Project) -> None:
    """Retention runs after a rollback; the target and the last safety snapshot stay."""
    project.overrides["retention"] = 2
    project.capture("v1")
    for release in ("v2", "v3", "v4"):
        project.capture(release)
    for number in range(4):
        project.damage()
        project.mcp.write_text(str(number))
        outcome = roll_back(project, "v1_snapshot")
        assert outcome.status == "restored"
    ids = [snapshot.snapshot_id for snapshot in project.pipeline.catalogue.published()[0]]
    assert "v1_snapshot" in ids and "v4_snapshot" in ids and outcome.safety_snapshot_id in ids
    assert len([i for i in ids if i.startswith("safety")]) == 2


def older_snapshot(project: Project, *, with_database: bytes | None = None) -> str:
    """Write a snapshot of the present state as the older tool did."""
    snapshot_id = "v0_snapshot_20240101000000"
    folder = project.pipeline.catalogue.store.folder / snapshot_id
    stored = folder / "assets" / "state"
    stored.mkdir(parents=True)
    source = sqlite3.connect(project.database)
    copy = sqlite3.connect(stored / "app.db")
    source.backup(copy)
    source.close()
    copy.close()
    if with_database is not None:
        (stored / "app.db").write_bytes(with_database)
    (stored / "identity").mkdir()
    (stored / "identity" / "identity.json").write_bytes((project.identity / "identity.json").read_bytes())
    (stored / "mcp.json").write_bytes(project.mcp.read_bytes())
    assets = [
        {"key": key, "relativePath": f"state/{name}", "kind": kind, "exists": exists}
        | {"sourcePath": "/nowhere/else", "snapshotPath": "/nowhere/at/all"}
        for key, name, kind, exists in (
            ("state-app-db", "app.db", "file", True),
            ("identity", "identity", "directory", True),
            ("mcp-servers", "mcp.json", "file", True),
            ("extra", "extra.json", "file", False),
        )
    ]
    write_older_metadata(folder, *assets)
    return snapshot_id


def test_snapshot_of_the_older_tool_is_refused_without_force(project: Project) -> None:
    """It has no digests; the message says what to type."""
    snapshot_id = older_snapshot(project)
    project.damage()
    before = file_tree(project.state)
    outcome = roll_back(project, snapshot_id)
    assert outcome.status == "failed"
    assert "--force" in outcome.diagnostics[0]
    assert file_tree(project.state) == before
    assert audit_events(project) == [("rollback.refused", "failed")]


def test_snapshot_of_the_older_tool_is_restored_with_force(project: Project) -> None:
    """Database, folder, file and absences are restored; nothing outside is written."""
    snapshot_id = older_snapshot(project)
    rows = project.rows()
    project.damage()
    outcome = roll_back(project, snapshot_id, force=True)
    assert outcome.status == "restored", outcome
    assert project.rows() == rows
    assert project.mcp.read_text() == '{"mcpServers": {}}'
    assert not project.extra.exists()
    assert sorted(p.name for p in project.identity.iterdir()) == ["identity.json"]
    assert project.leftovers() == []


def test_snapshot_of_the_older_tool_is_restored_twice_within_a_second(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each adoption has its own id."""
    monkeypatch.setattr("release_tasks.stages.rollback.adoption.compact", lambda: "20260101000000")
    snapshot_id = older_snapshot(project)
    for _ in range(2):
        project.mcp.write_text("{}")
        assert roll_back(project, snapshot_id, force=True).status == "restored"


def test_damaged_snapshot_of_the_older_tool_is_refused_even_with_force(project: Project) -> None:
    """The integrity check of its database decides before anything live is touched."""
    snapshot_id = older_snapshot(project, with_database=b"SQLite format 3\0" + b"\xff" * 8000)
    before = file_tree(project.state)
    outcome = roll_back(project, snapshot_id, force=True)
    assert outcome.status == "failed"
    assert file_tree(project.state) == before


def test_force_does_not_skip_verification(project: Project) -> None:
    """--force restores a state that is already in place; it never restores an altered snapshot."""
    project.capture()
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    stored.write_text('{"mcpServers": {"evil": 1}}')
    before = file_tree(project.state)
    assert roll_back(project, force=True).status == "failed"
    assert file_tree(project.state) == before


def test_unreadable_rollback_state_does_not_prevent_a_rollback(project: Project) -> None:
    """With a truncated rollback-state.json a given snapshot is still restored."""
    before = project.content()
    project.capture()
    project.damage()
    roll_back(project)
    project.damage()
    project.pipeline.state_path.write_text('{"snapshotId": "v1_')
    outcome = roll_back(project, "v1_snapshot", force=True)
    assert outcome.status == "restored"
    assert project.content() == before


def test_retention_counts_safety_snapshots_of_failed_attempts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five failed rollbacks leave no more safety snapshots than retention allows."""
    project.overrides["retention"] = 2
    project.capture()
    project.damage()

    def refuse(*_: Any) -> None:
        raise StageFailed("no.")

    monkeypatch.setattr("release_tasks.assets.sqlite.kind.restore_database", refuse)
    for _ in range(5):
        assert roll_back(project).status == "failed"
    safety = [s for s in project.pipeline.catalogue.published()[0] if s.kind == "safety"]
    assert len(safety) <= 3


def test_failed_clean_up_does_not_fail_the_restore(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old snapshot that cannot be removed is a note: the state is restored and the service healthy."""
    project.overrides["retention"] = 1
    project.capture("v0")
    project.capture("v1")
    project.damage()

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", "old")

    monkeypatch.setattr("release_tasks.archive.stores.local.remove_tree", refuse)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert audit_events(project)[-1] == ("rollback.finished", "restored")


def test_asset_that_contains_the_pipeline_folder_is_refused(project: Project) -> None:
    """A folder that contains the snapshots cannot be swapped, so the configuration is refused."""
    from release_tasks.core.errors import ConfigError

    project.overrides["root"] = "state/identity/pipeline"
    with pytest.raises(ConfigError):
        project.settings  # noqa: B018


def test_asset_inside_another_asset_is_refused(project: Project) -> None:
    """Two assets with the same files cannot both be exchanged."""
    from release_tasks.core.errors import ConfigError

    project.overrides["assets.key"] = {"file": "state/identity/keys/private.pem"}
    with pytest.raises(ConfigError):
        project.settings  # noqa: B018
