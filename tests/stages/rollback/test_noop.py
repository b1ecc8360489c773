"""When a repeated rollback is a ``noop``, when it restores, and that it never skips a needed restart command."""

from __future__ import annotations

import os
import shutil
import sqlite3
from typing import Any

import pytest

from release_tasks.core.records import RollbackOutcome
from tests.support.faults.listeners import on_steps
from tests.support.health import Health
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, rollback_state, safety_folder


def insert_row(project: Project, amount: int) -> None:
    """Insert a row as the service does."""
    database = sqlite3.connect(project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, ?)", (amount,))
    database.commit()
    database.close()


def capture_damage_restore(project: Project) -> RollbackOutcome:
    """Capture v1, change every asset, and roll back to v1."""
    project.capture()
    project.damage()
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    return outcome


@pytest.mark.smoke
def test_rows_written_after_the_restore_survive_a_repeated_rollback(project: Project) -> None:
    """The second rollback is a noop, keeps the id of the safety snapshot and leaves an audit event."""
    first = capture_damage_restore(project)
    insert_row(project, 4242)
    outcome = roll_back(project)
    assert outcome.status == "noop"
    assert project.rows()[1][-1][-1] == 4242
    assert outcome.restored_assets == [] and sorted(outcome.skipped_assets) == ["database", "extra", "identity", "mcp"]
    assert rollback_state(project).safety_snapshot_id == first.safety_snapshot_id
    assert audit_events(project)[-1] == ("rollback.finished", "noop")


def test_force_restores_although_the_snapshot_is_in_place(project: Project) -> None:
    """--force removes the rows written since; the safety snapshot contains them."""
    capture_damage_restore(project)
    insert_row(project, 4242)
    outcome = roll_back(project, force=True)
    assert outcome.status == "restored"
    assert project.rows()[1] == []
    roll_back(project, outcome.safety_snapshot_id)
    assert project.rows()[1][-1][-1] == 4242


@pytest.mark.parametrize("key", ["identity", "mode", "mcp", "extra"])
def test_changed_file_makes_the_rollback_restore(project: Project, key: str) -> None:
    """A changed byte, mode or presence of a file is enough."""
    before = project.content()
    capture_damage_restore(project)
    if key == "identity":
        (project.identity / "identity.json").write_text('{"id": "One"}')
    elif key == "mode":
        os.chmod(project.identity / "keys" / "private.pem", 0o644)
    elif key == "mcp":
        project.mcp.unlink()
    else:
        project.extra.write_text("{}")
    assert roll_back(project).status == "restored"
    assert project.content() == before


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_missing_or_damaged_database_makes_the_rollback_restore(project: Project, how: str) -> None:
    """A noop needs a database that can be read."""
    before = project.content()
    capture_damage_restore(project)
    if how == "missing":
        project.database.unlink()
    else:
        project.database.write_bytes(b"x" * 5000)
    assert roll_back(project).status == "restored"
    assert project.content() == before


def test_rollback_restores_again_after_a_release_was_prepared(project: Project) -> None:
    """Rollback to A, prepare B, rollback to A: restored."""
    before = project.content()
    project.capture("a")
    project.damage()
    assert roll_back(project, "a_snapshot").status == "restored"
    project.capture("b")
    insert_row(project, 1)
    outcome = roll_back(project, "a_snapshot")
    assert outcome.status == "restored"
    assert project.content() == before
    assert roll_back(project, "a_snapshot").status == "noop"


def test_rollback_restores_again_after_another_snapshot_was_restored(project: Project) -> None:
    """Rollback to A, to its safety snapshot, to A again: restored each time."""
    first = capture_damage_restore(project)
    assert roll_back(project, first.safety_snapshot_id).status == "restored"
    assert roll_back(project, "v1_snapshot").status == "restored"


def test_recorded_state_alone_makes_no_noop(project: Project) -> None:
    """The live files and the database are compared, whatever the state file records."""
    before = project.content()
    capture_damage_restore(project)
    shutil.rmtree(project.identity)
    assert roll_back(project).status == "restored"
    assert project.content() == before


def test_first_rollback_to_an_equal_state_runs_every_step(project: Project) -> None:
    """No restore was recorded before, so the rollback takes a safety snapshot and writes state and audit event."""
    project.capture()
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert outcome.restored_assets == []
    assert outcome.safety_snapshot_id
    assert roll_back(project).status == "noop"
    assert audit_events(project)[0] == ("rollback.started", "in_progress")


def test_rollback_after_an_undone_one_restores(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed rollback is not recorded as restored."""
    from release_tasks.assets import base
    from release_tasks.core.errors import StageFailed

    project.capture()

    def refuse(*_: Any) -> bool:
        raise StageFailed("no.")

    project.mcp.write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(base.AssetKind, "overwrite", refuse)
        patch.setattr(base, "rename_into_place", lambda *_: False)
        assert roll_back(project).status == "failed"
    project.pipeline.journal_path.unlink(missing_ok=True)
    assert roll_back(project).status == "restored"


def test_unreadable_older_snapshot_keeps_the_rollback_a_noop(project: Project) -> None:
    """A damaged folder in the catalogue says nothing about what was restored."""
    project.capture("v0")
    capture_damage_restore(project)
    insert_row(project, 4242)
    (project.pipeline.catalogue.path("v0_snapshot") / "metadata.json").write_text("{")
    assert roll_back(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_unreadable_latest_snapshot_keeps_the_rollback_a_noop(project: Project) -> None:
    """A release that can no longer be read is no new release."""
    capture_damage_restore(project)
    project.capture("v2")
    roll_back(project, "v1_snapshot")
    insert_row(project, 4242)
    (project.pipeline.catalogue.path("v2_snapshot") / "metadata.json").write_text("{")
    assert roll_back(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_failed_attempt_in_between_keeps_the_rollback_a_noop(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollback to A, an attempt that failed before any change, rollback to A: noop."""
    from release_tasks.core.errors import StageFailed
    from release_tasks.stages.rollback import safety_copy

    capture_damage_restore(project)
    first = rollback_state(project).safety_snapshot_id
    project.overrides["retention"] = 5
    insert_row(project, 4242)
    with monkeypatch.context() as patch:

        def refuse(*_: Any) -> Any:
            raise StageFailed("The disk is full.")

        patch.setattr(safety_copy, "unpublished_snapshot", refuse)
        assert roll_back(project, first).status == "failed"
    assert roll_back(project, "v1_snapshot").status == "noop"
    assert project.rows()[1][-1][-1] == 4242


def test_noop_depends_on_several_samples_of_health(project: Project, health: Health) -> None:
    """The state is in place, and one answer of a service that flaps would say nothing."""
    project.overrides["health.url"] = health.url
    capture_damage_restore(project)
    requests = health.requests
    outcome = roll_back(project)
    assert outcome.status == "noop"
    assert outcome.health_check is not None and outcome.health_check.passed
    assert 3 <= health.requests - requests <= 5
    assert outcome.health_check.attempts == health.requests - requests


def test_unhealthy_service_without_a_command_fails_and_names_both_options(project: Project, health: Health) -> None:
    """The diagnostics name the rerun with a restart command, and --force; the rows stay."""
    project.overrides["health.url"] = health.url
    capture_damage_restore(project)
    insert_row(project, 4242)
    health.status = 503
    outcome = roll_back(project)
    assert outcome.status == "failed"
    messages = " ".join(outcome.diagnostics)
    assert "--snapshot v1_snapshot --restart-command" in messages and "--force" in messages
    assert "503" in messages
    assert project.rows()[1][-1][-1] == 4242


def test_a_failed_answer_names_each_command_once_and_ends_with_one(project: Project, free_port: int) -> None:
    """After a restore the last sentence undoes it; in place it restarts the service. The URL is not repeated."""
    url = f"http://127.0.0.1:{free_port}/health"
    project.overrides |= {"health.url": url, "health.deadline": "200ms"}
    project.capture()
    project.damage()
    restored = roll_back(project)
    insert_row(project, 4242)
    in_place = roll_back(project)
    assert restored.diagnostics[-1].endswith(f"inv release.rollback --snapshot {restored.safety_snapshot_id}")
    assert in_place.diagnostics[-1].endswith("inv release.rollback --snapshot v1_snapshot --restart-command CMD")
    for outcome in (restored, in_place):
        text = " ".join(outcome.diagnostics)
        assert (outcome.status, text.count(url)) == ("failed", 1), text
        assert text.count("--force") == (outcome is in_place), text
        assert text.count("inv release.rollback --snapshot safety_") == (outcome is restored), text


@pytest.mark.slow
def test_restart_command_of_the_decision_guide_keeps_the_rows(project: Project, health: Health) -> None:
    """An unhealthy noop, repeated with the snapshot and a restart command, runs the command and restores no asset."""
    project.overrides["health.url"] = health.url
    project.overrides["health.deadline"] = "10s"
    capture_damage_restore(project)
    insert_row(project, 4242)
    health.status = 503
    marker = project.folder / "restarted"

    def answer_after_restart(step: str) -> None:
        if step.startswith("health"):
            health.status = 200 if marker.exists() else 503

    outcome = roll_back(project, "v1_snapshot", restart_command="touch restarted", emit=on_steps(answer_after_restart))
    assert marker.exists()
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.restart_command == "touch restarted"
    assert outcome.health_check is not None and outcome.health_check.passed
    assert project.rows()[1][-1][-1] == 4242
    assert audit_events(project)[-1] == ("rollback.finished", "restored")


def test_restart_command_is_not_run_when_the_service_is_healthy(project: Project, health: Health) -> None:
    """The state is in place and the service healthy: a noop does not disturb the service."""
    project.overrides["health.url"] = health.url
    capture_damage_restore(project)
    outcome = roll_back(project, restart_command="touch restarted")
    assert outcome.status == "noop"
    assert not (project.folder / "restarted").exists()


def test_assets_that_were_absent_are_removed_and_kept_in_the_safety_snapshot(project: Project) -> None:
    """A file, a folder and a database created later are removed; the safety snapshot brings them back."""
    project.overrides["assets.more"] = {"directory": "state/more", "required": False}
    project.overrides["assets.second"] = {"sqlite": "state/second.db", "required": False}
    before = project.content()
    project.capture()
    project.extra.write_text("{}")
    (project.state / "more" / "empty").mkdir(parents=True)
    shutil.copy(project.database, project.state / "second.db")
    outcome = roll_back(project)
    assert sorted(outcome.removed_assets) == ["extra", "more", "second"]
    assert project.content() == before
    assert sorted(os.listdir(project.state)) == ["app.db", "identity", "mcp.json"]
    safety = safety_folder(project, outcome) / "assets"
    assert (safety / "extra" / "extra.json").read_text() == "{}"
    assert (safety / "more" / "more" / "empty").is_dir()
    assert (safety / "second" / "second.db").is_file()
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert (project.state / "more" / "empty").is_dir()
    assert project.extra.exists() and (project.state / "second.db").exists()
