"""``noop`` is earned, what was absent stays absent, and a restart command is never skipped when health fails."""

from __future__ import annotations

import os
import shutil
import sqlite3
from typing import Any

import pytest

from tests.support.health import Health
from tests.support.project import Project


def insert(project: Project, amount: int) -> None:
    database = sqlite3.connect(project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, ?)", (amount,))
    database.commit()
    database.close()


def restored(project: Project, roll: Any, **flags: Any) -> Any:
    project.capture()
    project.damage()
    outcome = roll(project, **flags)
    assert outcome.status == "restored", outcome.diagnostics
    return outcome


@pytest.mark.smoke
def test_rows_written_after_the_restore_survive_a_repeated_rollback(project: Project, roll: Any, events: Any) -> None:
    """The second one is a noop; it keeps the name of the safety snapshot, and is on record."""
    first = restored(project, roll)
    insert(project, 4242)
    outcome = roll(project)
    assert outcome.status == "noop"
    assert project.rows()[1][-1][-1] == 4242
    assert outcome.restored_assets == [] and sorted(outcome.skipped_assets) == ["database", "extra", "identity", "mcp"]
    assert project.pipeline.read_state().safety_snapshot_id == first.safety_snapshot_id
    assert events(project)[-1] == ("rollback.finished", "noop")


def test_force_restores_regardless(project: Project, roll: Any) -> None:
    """--force takes the rows back; they are in the safety snapshot."""
    restored(project, roll)
    insert(project, 4242)
    outcome = roll(project, force=True)
    assert outcome.status == "restored"
    assert project.rows()[1] == []
    roll(project, outcome.safety_snapshot_id)
    assert project.rows()[1][-1][-1] == 4242


@pytest.mark.parametrize("key", ["identity", "mode", "mcp", "extra"])
def test_files_that_no_longer_match_are_restored(project: Project, roll: Any, key: str) -> None:
    """Byte for byte, mode for mode, also an absence."""
    before = project.content()
    restored(project, roll)
    if key == "identity":
        (project.identity / "identity.json").write_text('{"id": "One"}')
    elif key == "mode":
        os.chmod(project.identity / "keys" / "private.pem", 0o644)
    elif key == "mcp":
        project.mcp.unlink()
    else:
        project.extra.write_text("{}")
    assert roll(project).status == "restored"
    assert project.content() == before


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_database_that_is_gone_or_broken_is_restored(project: Project, roll: Any, how: str) -> None:
    """A noop needs a database that can be read."""
    before = project.content()
    restored(project, roll)
    if how == "missing":
        project.database.unlink()
    else:
        project.database.write_bytes(b"x" * 5000)
    assert roll(project).status == "restored"
    assert project.content() == before


def test_a_release_prepared_since_makes_the_same_rollback_a_real_one(project: Project, roll: Any) -> None:
    """Rolled back to A, prepared B, rolled back to A again: restored."""
    before = project.content()
    project.capture("a")
    project.damage()
    assert roll(project, "a_snapshot").status == "restored"
    project.capture("b")
    insert(project, 1)
    outcome = roll(project, "a_snapshot")
    assert outcome.status == "restored"
    assert project.content() == before
    assert roll(project, "a_snapshot").status == "noop"


def test_another_snapshot_restored_in_between_makes_it_a_real_one(project: Project, roll: Any) -> None:
    """A, then the safety snapshot, then A again: each restores."""
    first = restored(project, roll)
    assert roll(project, first.safety_snapshot_id).status == "restored"
    assert roll(project, "v1_snapshot").status == "restored"


def test_a_state_file_alone_earns_no_noop(project: Project, roll: Any) -> None:
    """Equal files and a sound database are looked at, whatever the state file says."""
    before = project.content()
    restored(project, roll)
    shutil.rmtree(project.identity)
    assert roll(project).status == "restored"
    assert project.content() == before


def test_a_first_rollback_to_an_equal_state_is_no_noop(project: Project, roll: Any, events: Any) -> None:
    """Nothing was recorded as restored yet, so it goes the whole way: safety snapshot, state, audit."""
    project.capture()
    outcome = roll(project)
    assert outcome.status == "restored"
    assert outcome.restored_assets == []
    assert outcome.safety_snapshot_id
    assert roll(project).status == "noop"
    assert events(project)[0] == ("rollback.started", "in_progress")


def test_an_undone_rollback_earns_no_noop(project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is not recorded as restored."""
    from release_tasks.assets import base
    from release_tasks.core.errors import StageFailed

    project.capture()

    def refuse(*_: Any) -> bool:
        raise StageFailed("no.")

    project.mcp.write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(base.AssetKind, "overwrite", refuse)
        patch.setattr(base, "rename_into_place", lambda *_: False)
        assert roll(project).status == "failed"
    project.pipeline.journal_path.unlink(missing_ok=True)
    assert roll(project).status == "restored"


def test_an_older_unreadable_snapshot_does_not_throw_new_rows_away(project: Project, roll: Any) -> None:
    """That another folder in the catalogue is damaged says nothing of what was restored here."""
    project.capture("v0")
    restored(project, roll)
    insert(project, 4242)
    (project.pipeline.catalogue.path("v0_snapshot") / "metadata.json").write_text("{")
    assert roll(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_a_newest_snapshot_that_becomes_unreadable_does_not_throw_new_rows_away(project: Project, roll: Any) -> None:
    """Nothing was prepared since; a release that can no longer be read is no new release."""
    restored(project, roll)
    project.capture("v2")
    roll(project, "v1_snapshot")
    insert(project, 4242)
    (project.pipeline.catalogue.path("v2_snapshot") / "metadata.json").write_text("{")
    assert roll(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_a_failed_attempt_in_between_does_not_throw_new_rows_away(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored A, an attempt that ended before anything was touched, A again: still a noop."""
    from release_tasks.core.errors import StageFailed
    from release_tasks.stages.rollback import engine

    restored(project, roll)
    first = project.pipeline.read_state().safety_snapshot_id
    project.overrides["retention"] = 5
    insert(project, 4242)
    with monkeypatch.context() as patch:

        def refuse(*_: Any) -> Any:
            raise StageFailed("The disk is full.")

        patch.setattr(engine, "unpublished_snapshot", refuse)
        assert roll(project, first).status == "failed"
    assert roll(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_a_noop_asks_health(project: Project, roll: Any, health: Health) -> None:
    """In place and well: one look is enough."""
    project.overrides["health.url"] = health.url
    restored(project, roll)
    asked = health.requests
    outcome = roll(project)
    assert outcome.status == "noop"
    assert outcome.health_check.passed
    assert health.requests == asked + 1


def test_in_place_but_unhealthy_without_a_command_is_failed_with_both_ways_on(
    project: Project, roll: Any, health: Health
) -> None:
    """It names the rerun with a restart command, and --force; the data is left alone."""
    project.overrides["health.url"] = health.url
    restored(project, roll)
    insert(project, 4242)
    health.status = 503
    outcome = roll(project)
    assert outcome.status == "failed"
    told = " ".join(outcome.diagnostics)
    assert "--snapshot v1_snapshot --restart-command" in told and "--force" in told
    assert "503" in told
    assert project.rows()[1][-1][-1] == 4242


def test_the_decision_guides_way_on_works(project: Project, roll: Any, health: Health, events: Any) -> None:
    """Noop but health failed: rerun with explicit snapshot and restart command; the data stays, the command runs."""
    project.overrides["health.url"] = health.url
    project.overrides["health.deadline"] = "10s"
    restored(project, roll)
    insert(project, 4242)
    health.status = 503
    marker = project.folder / "restarted"

    real = health.server.RequestHandlerClass.do_GET

    def do_get(handler: Any) -> None:
        health.status = 200 if marker.exists() else 503
        real(handler)

    health.server.RequestHandlerClass.do_GET = do_get
    outcome = roll(project, "v1_snapshot", restart_command="touch restarted")
    assert marker.exists()
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.restart_command == "touch restarted"
    assert outcome.health_check.passed
    assert project.rows()[1][-1][-1] == 4242
    assert events(project)[-1] == ("rollback.finished", "restored")


def test_an_explicit_restart_command_is_not_needed_when_all_is_well(
    project: Project, roll: Any, health: Health
) -> None:
    """In place and healthy: a noop, and the service is not disturbed."""
    project.overrides["health.url"] = health.url
    restored(project, roll)
    outcome = roll(project, restart_command="touch restarted")
    assert outcome.status == "noop"
    assert not (project.folder / "restarted").exists()


def test_what_was_absent_is_absent_again_and_in_the_safety_snapshot(project: Project, roll: Any) -> None:
    """A file, a folder and a database that came later go; the way back brings them."""
    project.overrides["assets.more"] = {"directory": "state/more", "required": False}
    project.overrides["assets.second"] = {"sqlite": "state/second.db", "required": False}
    before = project.content()
    project.capture()
    project.extra.write_text("{}")
    (project.state / "more" / "empty").mkdir(parents=True)
    shutil.copy(project.database, project.state / "second.db")
    outcome = roll(project)
    assert sorted(outcome.removed_assets) == ["extra", "more", "second"]
    assert project.content() == before
    assert sorted(os.listdir(project.state)) == ["app.db", "identity", "mcp.json"]
    safety = project.pipeline.catalogue.path(outcome.safety_snapshot_id) / "assets"
    assert (safety / "extra" / "extra.json").read_text() == "{}"
    assert (safety / "more" / "more" / "empty").is_dir()
    assert (safety / "second" / "second.db").is_file()
    assert roll(project, outcome.safety_snapshot_id).status == "restored"
    assert (project.state / "more" / "empty").is_dir()
    assert project.extra.exists() and (project.state / "second.db").exists()
