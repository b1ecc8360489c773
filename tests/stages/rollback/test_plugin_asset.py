"""Rollbacks of assets that a plugin captured, with the plugin and without it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from release_tasks.assets import base, plugin
from release_tasks.core.records import AssetRecord, RollbackOutcome
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.asset_kind import InstallKind
from tests.support.project import Project
from tests.support.rollback import other_notes, roll_back, safety_id
from tests.support.snapshots import write_older_metadata

pytestmark = pytest.mark.slow

COPY_FOLDER = "shutil.copytree(source, copy, symlinks=True)"
# Ways in which a plugin is broken: arguments of install_kind, and a part of the message.
BROKEN = {
    "missing": ({"value": ""}, "no installed package offers the asset kind 'custom'"),
    "unloadable": ({"before": "import nonesuch"}, "No module named 'nonesuch'"),
    "raising": ({"capture": "raise ValueError('no luck')"}, "ValueError: no luck"),
    "crashing": ({"capture": "os._exit(9)"}, "exited in capture without a result (exit code 9)"),
    "hanging": ({"capture": "time.sleep(60)"}, "had no result in capture after 2s and was stopped"),
    "writing nothing": ({"capture": "pass"}, "wrote no copy"),
    "reporting damage": ({"check": "return ['record 3 is torn']"}, "found problems in its own copy: record 3 is torn"),
    "another form": ({"form": "directory"}, "captures a folder"),
}
# The last record is incomplete between two writes.
WRITER = """
import sys, time
print("writing", flush=True)
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        file.write(b"half")
        file.write(b" and half\\n")
"""


@pytest.fixture
def original(project: Project) -> dict[str, Any]:
    """Return the content of the project before anything happens to it."""
    return project.content()


@pytest.fixture
def plugin_project(project: Project, install_kind: InstallKind, original: dict[str, Any]) -> Project:
    """Return a damaged project whose mcp.json was captured by the plugin ``custom``."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    install_kind()
    project.capture()
    project.damage()
    project.mcp.write_text('{"live": true}')
    return project


def break_plugin(install_kind: InstallKind, project: Project, way: str) -> str:
    """Break the plugin in one way and return a part of the message about it."""
    setup, expected = BROKEN[way]
    if way == "missing":
        info = project.folder / "site" / "custom_kind-1.0.dist-info"
        (info / "entry_points.txt").write_text("[console_scripts]\n")
    else:
        install_kind(**setup)
    if way == "hanging":
        project.overrides["assets.mcp.timeout"] = "2s"
    return expected


def safety_record(project: Project, outcome: RollbackOutcome) -> AssetRecord:
    """Return the record of mcp.json in the safety snapshot."""
    record = project.pipeline.catalogue.get(safety_id(outcome)).asset("mcp")
    assert record is not None
    return record


def test_asset_of_a_plugin_is_restored_and_captured_in_the_safety_snapshot(
    plugin_project: Project, original: dict[str, Any]
) -> None:
    """The plugin takes the safety copy too, and that snapshot restores the state before."""
    damaged = plugin_project.content()
    outcome = roll_back(plugin_project)
    assert (outcome.status, other_notes(outcome)) == ("restored", [])
    assert plugin_project.content() == original
    safety = safety_record(plugin_project, outcome)
    assert (safety.plugin, safety.plugin_problem) == ("custom", None)
    assert roll_back(plugin_project, snapshot_id=outcome.safety_snapshot_id).status == "restored"
    assert plugin_project.content() == damaged
    assert plugin_project.leftovers() == []


@pytest.mark.parametrize("way", BROKEN)
def test_restore_works_with_a_broken_plugin(
    plugin_project: Project, original: dict[str, Any], install_kind: InstallKind, way: str
) -> None:
    """The safety copy is a plain copy and reported as such, and it restores every byte."""
    expected = break_plugin(install_kind, plugin_project, way)
    damaged = plugin_project.content()
    outcome = roll_back(plugin_project)
    assert outcome.status == "restored"
    assert plugin_project.content() == original
    safety = safety_record(plugin_project, outcome)
    assert (safety.kind, safety.plugin) == ("file", None)
    assert safety.plugin_problem is not None and expected in safety.plugin_problem
    (message,) = other_notes(outcome)
    assert message.startswith(f"mcp: {outcome.safety_snapshot_id} contains a plain copy.") and expected in message
    again = roll_back(plugin_project, snapshot_id=outcome.safety_snapshot_id)
    assert again.status == "restored"
    assert any("may end in the middle of a record" in message for message in again.diagnostics)
    assert plugin_project.content() == damaged
    assert plugin_project.leftovers() == []


@pytest.fixture
def appending_process(plugin_project: Project) -> Iterator[None]:
    """Let a process append to mcp.json as fast as it can."""
    command = [sys.executable, "-c", WRITER, str(plugin_project.mcp)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield
        process.kill()


def test_plain_safety_copy_accepts_a_file_that_keeps_changing(
    plugin_project: Project, original: dict[str, Any], install_kind: InstallKind, appending_process: None
) -> None:
    """For an asset of kind ``file`` such a copy is refused."""
    break_plugin(install_kind, plugin_project, "missing")
    assert roll_back(plugin_project).status == "restored"
    assert plugin_project.content()["files"]["mcp.json"] == original["files"]["mcp.json"]


def test_folder_of_a_plugin_is_restored_over_a_file_a_link_or_nothing(
    plugin_project: Project, install_kind: InstallKind
) -> None:
    """The restore does not need the plugin."""
    plugin_project.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    plugin_project.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}
    install_kind(COPY_FOLDER, form="directory")
    before = plugin_project.content()
    plugin_project.capture("v2")
    break_plugin(install_kind, plugin_project, "missing")
    moved = plugin_project.folder / "moved"
    for take_place in (
        lambda: plugin_project.identity.write_text("a file"),
        lambda: os.symlink("elsewhere", plugin_project.identity),
        lambda: None,
    ):
        plugin_project.identity.rename(moved)
        take_place()
        assert roll_back(plugin_project, snapshot_id="v2_snapshot", force=True).status == "restored"
        assert plugin_project.content() == before
        subprocess.run(["rm", "-r", str(moved)], check=True)


def test_absent_asset_is_removed_and_missing_one_restored_without_the_plugin(
    plugin_project: Project, original: dict[str, Any], install_kind: InstallKind
) -> None:
    """Neither step calls the plugin."""
    plugin_project.mcp.unlink()
    plugin_project.capture("v2")
    plugin_project.mcp.write_text("new")
    break_plugin(install_kind, plugin_project, "missing")
    assert roll_back(plugin_project, snapshot_id="v2_snapshot").removed_assets == ["mcp"]
    assert not plugin_project.mcp.exists()
    assert "mcp" in roll_back(plugin_project, snapshot_id="v1_snapshot").restored_assets
    assert plugin_project.content() == original


# A second rollback


def test_rollback_is_a_noop_after_the_service_wrote_to_the_asset(
    plugin_project: Project, original: dict[str, Any]
) -> None:
    """As with a database, changed bytes do not count; ``--force`` restores."""
    assert roll_back(plugin_project).status == "restored"
    plugin_project.mcp.write_text('{"written": "since"}')
    outcome = roll_back(plugin_project)
    assert outcome.status == "noop"
    changed, advice = other_notes(outcome)
    assert changed == "mcp: its content was changed since the restore."
    assert advice.endswith("inv release.rollback --snapshot v1_snapshot --force")
    assert plugin_project.mcp.read_text() == '{"written": "since"}'
    assert any("is a noop" in message for message in plan_rollback(plugin_project.settings).diagnostics)
    assert roll_back(plugin_project, force=True).status == "restored"
    assert plugin_project.content() == original


@pytest.mark.parametrize("way", ["reporting damage", "by PluginError"])
def test_asset_that_the_plugin_finds_damaged_is_restored_again(
    plugin_project: Project, original: dict[str, Any], install_kind: InstallKind, way: str
) -> None:
    """The plugin reports damage by its check or by a PluginError."""
    assert roll_back(plugin_project).status == "restored"
    plugin_project.mcp.write_text("bad")
    bad = "open(copy).read() == 'bad'"
    if way == "by PluginError":
        install_kind("if open(source).read() == 'bad': raise PluginError('It is torn.')\nopen(copy, 'w')")
    else:
        install_kind(check=f"return ['torn'] if {bad} else []")
    assert roll_back(plugin_project).status == "restored"
    assert plugin_project.content() == original


@pytest.mark.parametrize("way", [way for way in BROKEN if way not in ("reporting damage", "another form")])
def test_broken_plugin_keeps_the_rollback_a_noop(plugin_project: Project, install_kind: InstallKind, way: str) -> None:
    """Bytes that the service wrote stay; the message names the flag that restores."""
    assert roll_back(plugin_project).status == "restored"
    plugin_project.mcp.write_text('{"written": "since"}')
    expected = break_plugin(install_kind, plugin_project, way)
    outcome = roll_back(plugin_project)
    assert outcome.status == "noop"
    assert plugin_project.mcp.read_text() == '{"written": "since"}'
    message, advice = other_notes(outcome)
    assert message.startswith("mcp: could not be checked: ") and expected in message
    assert advice.endswith("inv release.rollback --snapshot v1_snapshot --force")
    assert plugin_project.leftovers() == []


@pytest.mark.parametrize("damage", ["missing", "a folder"])
def test_missing_asset_is_restored_again(plugin_project: Project, original: dict[str, Any], damage: str) -> None:
    """The plugin is not needed to see that the file is missing or a folder."""
    assert roll_back(plugin_project).status == "restored"
    plugin_project.mcp.unlink()
    if damage == "a folder":
        plugin_project.mcp.mkdir()
    assert roll_back(plugin_project).status == "restored"
    assert plugin_project.content() == original


# The configuration has changed since


def test_copy_is_restored_to_another_plugin_or_kind_of_the_same_form(
    plugin_project: Project, original: dict[str, Any]
) -> None:
    """Another plugin and kind ``file`` take the copy; kind ``directory`` is refused."""
    plugin_project.overrides["assets.mcp"] = {"python": "other", "path": "state/mcp.json"}
    outcome = roll_back(plugin_project)
    assert outcome.status == "restored"
    assert (
        "mcp: plugin custom took this copy, but other is configured now; the copy is restored unchanged."
        in outcome.diagnostics
    )
    plugin_project.mcp.write_text("again")
    plugin_project.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    assert roll_back(plugin_project).status == "restored"
    assert plugin_project.content() == original
    plugin_project.overrides["assets.mcp"] = {"directory": "state/mcp.json"}
    plugin_project.mcp.write_text("again")
    outcome = roll_back(plugin_project)
    assert "Asset mcp is configured as directory, but snapshot v1_snapshot contains a file." in outcome.diagnostics[0]


def test_snapshot_taken_before_the_plugin_is_restored(project: Project, install_kind: InstallKind) -> None:
    """A copy of kind ``file`` is restored to an asset of a plugin."""
    before = project.content()
    project.capture()
    project.damage()
    install_kind()
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    assert roll_back(project).status == "restored"
    assert project.content() == before


def test_snapshot_of_the_older_tool_is_adopted_without_the_plugin(project: Project) -> None:
    """Its copy is no live state and is read as a plain file."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    snapshot_id = "v0_snapshot_20240101000000"
    folder = project.pipeline.catalogue.store.folder / snapshot_id
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "assets" / "state" / "mcp.json").write_text("of the older tool")
    asset = {"key": "mcp-servers", "relativePath": "state/mcp.json", "kind": "file", "exists": True}
    write_older_metadata(folder, asset, retentionLimit=None, createdAt="2024-01-01T00:00:00Z")
    outcome = roll_back(project, snapshot_id=snapshot_id, force=True)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.mcp.read_text() == "of the older tool"


def test_plan_reports_that_the_safety_copy_would_be_plain(plugin_project: Project, install_kind: InstallKind) -> None:
    """The plan says so before anything is changed."""
    expected = break_plugin(install_kind, plugin_project, "missing")
    messages = plan_rollback(plugin_project.settings).diagnostics
    assert any(
        message.startswith("mcp: the safety snapshot contains a plain copy.") and expected in message
        for message in messages
    )
    assert plugin_project.leftovers() == []


# Approvals


def test_revoked_sender_stays_revoked_in_stores_that_a_plugin_captured(
    project: Project, install_kind: InstallKind
) -> None:
    """A folder of a plugin is amended like any other."""
    install_kind(COPY_FOLDER, form="directory")
    project.overrides["assets.credentials"] = {"python": "custom", "path": "memory/credentials"}
    (project.folder / "memory" / "credentials").mkdir(parents=True)
    pairing = Pairing(project.settings.pairing)
    for sender in ("1001", "1002"):
        request = pairing.request(Channel.TELEGRAM, sender).request
        assert request is not None
        pairing.approve(Channel.TELEGRAM, request.code)
    project.capture()
    pairing.revoke(Channel.TELEGRAM, "1002")
    project.damage()
    assert roll_back(project).status == "restored"
    assert pairing.approved(Channel.TELEGRAM) == ["1001"]


# Interrupted


def test_signal_ends_a_rollback_while_a_plugin_runs(plugin_project: Project, install_kind: InstallKind) -> None:
    """No file in the pipeline and no process is left."""
    started = plugin_project.folder / "started"
    install_kind(f"open({str(started)!r}, 'w').close()\ntime.sleep(60)")
    script = (
        "import sys; from pathlib import Path; from release_tasks.tasks.project import load_settings\n"
        "from release_tasks.core.interrupt import interruptible\n"
        "from release_tasks.stages.rollback.engine import RollbackRequest, rollback\n"
        f"settings = load_settings({{'release': {plugin_project.raw!r}}}, Path({str(plugin_project.folder)!r}))\n"
        "with interruptible(): rollback(settings, RollbackRequest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    live = plugin_project.content()
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE) as process:
        waited = threading.Event()
        for _ in range(400):
            if started.exists() or waited.wait(0.05):
                break
        process.terminate()
        _, errors = process.communicate(timeout=5)
    assert b"Interrupted" in errors
    assert plugin_project.content() == live
    assert plugin_project.leftovers() == []


IN_PLACE = """
with open(live, "r+b") as file:
    file.write(open(copy, "rb").read())
    file.truncate()
"""
# Body of a wrong restore function, and a part of the message; empty where the plugin reports success.
WRONG_RESTORES = {
    "missing": ("", "has no function restore"),
    "raising": ("raise ValueError('no luck')", "ValueError: no luck"),
    "judging": ("raise PluginError('the queue is in use.')", "the queue is in use"),
    "crashing halfway": ("open(live, 'wb').write(b'half'); os._exit(9)", "exited in restore without a result"),
    "hanging": ("time.sleep(60)", "had no result in restore after 2s and was stopped"),
    "writing something else": ("open(live, 'wb').write(b'something else')", ""),
    "removing it": ("os.unlink(live)", ""),
    "making a folder of it": ("os.unlink(live); os.makedirs(os.path.join(live, 'more'))", ""),
    "making a link of it": ("os.unlink(live); os.symlink(os.path.join(os.path.dirname(live), 'app.db'), live)", ""),
    "spoiling the copy": ("open(copy, 'wb').write(b'spoiled'); open(live, 'wb').write(b'spoiled')", ""),
    "changing the mode": (IN_PLACE + "os.chmod(live, 0o777)", ""),
}


@pytest.fixture
def restoring_project(plugin_project: Project) -> Project:
    """Return that project with a plugin that restores mcp.json itself."""
    plugin_project.overrides["assets.mcp.restore"] = True
    plugin_project.overrides["assets.mcp.timeout"] = "2s"
    return plugin_project


def test_plugin_restores_its_state_in_place(
    restoring_project: Project, original: dict[str, Any], install_kind: InstallKind
) -> None:
    """The file that the service has open gets the content; its inode stays the same."""
    install_kind(restore=IN_PLACE)
    inode = restoring_project.mcp.stat().st_ino
    outcome = roll_back(restoring_project)
    assert outcome.status == "restored", outcome.diagnostics
    assert restoring_project.mcp.stat().st_ino == inode
    assert restoring_project.content() == original
    assert restoring_project.leftovers() == [] and not restoring_project.pipeline.journal_path.exists()
    assert roll_back(restoring_project, outcome.safety_snapshot_id).status == "restored"
    assert restoring_project.mcp.read_text() == '{"live": true}'


@pytest.mark.parametrize("way", WRONG_RESTORES)
def test_state_is_restored_whatever_the_restore_of_a_plugin_does(
    restoring_project: Project, original: dict[str, Any], install_kind: InstallKind, way: str
) -> None:
    """The suite completes an incomplete restore from the snapshot; the database is not touched by the plugin."""
    body, expected = WRONG_RESTORES[way]
    install_kind(restore=body)
    messages: list[str] = []
    outcome = rollback(restoring_project.settings, RollbackRequest(), lambda event: messages.append(str(event)))
    assert outcome.status == "restored", outcome.diagnostics
    assert restoring_project.content() == original
    assert restoring_project.leftovers() == []
    assert bool(expected) == any(expected and expected in message for message in messages)


def test_restore_by_a_plugin_is_undone_when_a_later_step_fails(
    restoring_project: Project, install_kind: InstallKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The previous live state is written back, whatever the plugin wrote."""
    install_kind(restore=IN_PLACE)
    before = restoring_project.content()
    monkeypatch.setattr(base, "rename_into_place", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert roll_back(restoring_project).status == "failed"
    monkeypatch.undo()
    assert recover(restoring_project.settings).status in ("undone", "clean")
    assert restoring_project.content() == before


def test_recover_finishes_a_run_that_ended_while_a_plugin_restored(
    restoring_project: Project, original: dict[str, Any], install_kind: InstallKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the state is written at the kill; recovery does not need the plugin."""

    class Killed(BaseException):
        pass

    def half(*_: Any) -> None:
        restoring_project.mcp.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "restore_copy", half)
        with pytest.raises(Killed):
            roll_back(restoring_project)
    break_plugin(install_kind, restoring_project, "missing")
    assert recover(restoring_project.settings).status == "finished"
    assert restoring_project.content() == original
